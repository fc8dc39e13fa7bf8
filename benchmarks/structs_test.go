package benchmarks

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/maypok86/otter/v2"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidisaside"

	"github.com/redaside/aside"
	"github.com/redaside/aside/benchmarks/internal/bench"
	"github.com/redaside/aside/codec"
)

// Account is a struct as services have it, with a slice. As JSON it has about 200 bytes.
type Account struct {
	ID    int64    `json:"id"`
	Name  string   `json:"name"`
	Email string   `json:"email"`
	City  string   `json:"city"`
	Plan  string   `json:"plan"`
	Roles []string `json:"roles"`
}

func newAccount() Account {
	return Account{
		ID: 1, Name: "Ada Lovelace", Email: "ada@analytical.example", City: "Ockham, Surrey", Plan: "enterprise",
		Roles: []string{"owner", "billing", "support", "developer", "auditor"},
	}
}

func cloneAccount(a Account) Account {
	a.Roles = slices.Clone(a.Roles)
	return a
}

// Order has 16 nested structs, each behind a pointer and with slices of its own. As JSON it has
// about 2 KB.
type Order struct {
	ID    int64             `json:"id"`
	Notes map[string]string `json:"notes"`
	Lines []*Line           `json:"lines"`
}

// Line is a line of an Order.
type Line struct {
	Article string   `json:"article"`
	Title   string   `json:"title"`
	Tags    []string `json:"tags"`
	Cents   int64    `json:"cents"`
	Count   int      `json:"count"`
}

func newOrder() Order {
	o := Order{ID: 1, Notes: map[string]string{"gift": "no", "leave at": "the door"}}
	for i := range 16 {
		o.Lines = append(o.Lines, &Line{
			Article: fmt.Sprintf("A-%05d", i), Title: strings.Repeat("punched card ", 2), Tags: []string{"paper", "brass"}, Cents: 1250, Count: i,
		})
	}
	return o
}

func cloneOrder(o Order) Order {
	lines := make([]*Line, len(o.Lines))
	for i, was := range o.Lines {
		line := *was
		line.Tags = slices.Clone(was.Tags)
		lines[i] = &line
	}
	return Order{o.ID, maps.Clone(o.Notes), lines}
}

// BenchmarkHotAccount and BenchmarkHotOrder: one key that everybody has in memory, all cores, a
// value that each caller may change. "rueidisaside" is the library of that name, with a codec of
// encoding/json; "otter" is a map of decoded values and a copy by hand; "-shared" is without a copy.
func BenchmarkHotAccount(b *testing.B) { hotStruct(b, newAccount(), cloneAccount) }

func BenchmarkHotOrder(b *testing.B) { hotStruct(b, newOrder(), cloneOrder) }

func hotStruct[T any](b *testing.B, value T, clone func(T) T) {
	ctx := context.Background()
	hot := func(b *testing.B, get func(key string) error) {
		key := bench.Keys(1)[0]
		for range 2 { // load, and let rueidis read what it wrote
			must(b, get(key))
		}
		b.ReportAllocs()
		settle(b)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				must(b, get(key))
			}
		})
	}
	b.Run("lib=aside", func(b *testing.B) {
		c := newAside(b, bench.Addr())
		defer c.Close()
		view := aside.Typed(c.Client, codec.JSON[T]())
		load := func(context.Context, string) (T, error) { return value, nil }
		hot(b, func(key string) error {
			_, err := view.Get(ctx, bench.TTL, key, load)
			return err
		})
	})
	b.Run("lib=aside-shared", func(b *testing.B) {
		c := newAside(b, bench.Addr())
		defer c.Close()
		view := aside.Typed(c.Client, codec.JSON[T](), aside.Shared())
		load := func(context.Context, string) (T, error) { return value, nil }
		hot(b, func(key string) error {
			_, err := view.Get(ctx, bench.TTL, key, load)
			return err
		})
	})
	b.Run("lib=otter-shared", func(b *testing.B) {
		c := otter.Must(&otter.Options[string, T]{MaximumSize: 100_000})
		hot(b, func(key string) error {
			v, ok := c.GetIfPresent(key)
			if !ok {
				c.Set(key, value)
			}
			runtime.KeepAlive(v)
			return nil
		})
	})
	b.Run("lib=rueidisaside", func(b *testing.B) {
		c, err := rueidisaside.NewClient(rueidisaside.ClientOption{ClientOption: rueidis.ClientOption{InitAddress: []string{bench.Addr()}}})
		must(b, err)
		defer c.Close()
		typed := rueidisaside.NewTypedCacheAsideClient(c, func(v *T) (string, error) {
			text, err := json.Marshal(v)
			return string(text), err
		}, func(s string) (*T, error) {
			v := new(T)
			return v, json.Unmarshal([]byte(s), v)
		})
		load := func(context.Context, string) (*T, error) { return &value, nil }
		hot(b, func(key string) error {
			_, err := typed.Get(ctx, bench.TTL, key, load)
			return err
		})
	})
	b.Run("lib=otter", func(b *testing.B) {
		c := otter.Must(&otter.Options[string, T]{MaximumSize: 100_000})
		hot(b, func(key string) error {
			v, ok := c.GetIfPresent(key)
			if !ok {
				c.Set(key, value)
				return nil
			}
			runtime.KeepAlive(clone(v))
			return nil
		})
	})
}

// BenchmarkGetMultiHotAccount: 100 keys that are in memory, all cores, of structs with a slice.
func BenchmarkGetMultiHotAccount(b *testing.B) {
	ctx := context.Background()
	all := func(keys []string) map[string]Account {
		values := make(map[string]Account, len(keys))
		for _, key := range keys {
			values[key] = newAccount()
		}
		return values
	}
	hot := func(b *testing.B, get func(keys []string) (map[string]Account, error)) {
		keys := bench.Keys(multi)
		for range 2 {
			_, err := get(keys)
			must(b, err)
		}
		b.ReportAllocs()
		settle(b)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if values, err := get(keys); err != nil || len(values) != multi {
					b.Error(len(values), err)
				}
			}
		})
	}
	b.Run("lib=aside", func(b *testing.B) {
		c := newAside(b, bench.Addr())
		defer c.Close()
		view := aside.Typed(c.Client, codec.JSON[Account]())
		hot(b, func(keys []string) (map[string]Account, error) {
			return view.GetMulti(ctx, bench.TTL, keys, func(_ context.Context, keys []string) (map[string]Account, error) { return all(keys), nil })
		})
	})
	b.Run("lib=rueidis", func(b *testing.B) {
		r := bench.Redis(b)
		defer r.Close()
		hot(b, func(keys []string) (map[string]Account, error) {
			asks := make([]rueidis.CacheableTTL, len(keys))
			for i, key := range keys {
				asks[i] = rueidis.CT(r.B().Get().Key(key).Cache(), bench.TTL)
			}
			values := make(map[string]Account, len(keys))
			for i, answer := range r.DoMultiCache(ctx, asks...) {
				raw, err := answer.ToString()
				if rueidis.IsRedisNil(err) {
					text, err := json.Marshal(newAccount())
					must(b, err)
					must(b, r.Do(ctx, r.B().Set().Key(keys[i]).Value(string(text)).Px(bench.TTL).Build()).Error())
					values[keys[i]] = newAccount()
					continue
				}
				must(b, err)
				var v Account
				must(b, json.Unmarshal([]byte(raw), &v))
				values[keys[i]] = v
			}
			return values, nil
		})
	})
}

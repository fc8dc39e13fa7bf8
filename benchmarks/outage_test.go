package benchmarks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/benchmarks/internal/bench"
	"github.com/redaside/aside/codec"
)

// newDegraded makes a client that never reaches a Redis.
func newDegraded(tb testing.TB, dir string) *asideUsers {
	tb.Helper()
	c, err := aside.New(aside.Options{
		ClientBuilder:  func(rueidis.ClientOption) (rueidis.Client, error) { return nil, errors.New("away") },
		ConnectTimeout: time.Millisecond,
		FallbackDir:    dir,
		DegradedTTL:    -1,
		Logger:         slog.New(slog.DiscardHandler),
	})
	must(tb, err)
	return &asideUsers{Client: c, typed: aside.Typed(c, codec.JSON[bench.User]())}
}

// BenchmarkDegradedHit is BenchmarkHotHit without Redis: what was loaded since, in memory. Compare
// with lib=healthy.
func BenchmarkDegradedHit(b *testing.B) {
	ctx := context.Background()
	for name, open := range map[string]func(testing.TB) *asideUsers{
		"healthy":  func(tb testing.TB) *asideUsers { return newAside(tb, bench.Addr()) },
		"degraded": func(tb testing.TB) *asideUsers { return newDegraded(tb, "") },
	} {
		b.Run("lib="+name, func(b *testing.B) {
			c := open(b)
			defer c.Close()
			key := bench.Keys(1)[0]
			for range 2 {
				_, err := c.get(ctx, key, trivial)
				must(b, err)
			}
			b.ReportAllocs()
			settle(b)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if u, err := c.typed.Get(ctx, bench.TTL, key, trivial); err != nil || u.ID != 1 {
						b.Error(u, err)
					}
				}
			})
		})
	}
}

// BenchmarkDegradedSet is a Set without Redis by 64 writers, durable when it returns
// (journal.Always), and what it takes to write one file for each, and its name, as durably.
func BenchmarkDegradedSet(b *testing.B) {
	ctx := context.Background()
	b.Run("lib=aside", func(b *testing.B) {
		c := newDegraded(b, b.TempDir())
		defer c.Close()
		var next atomic.Int64
		callers(b, 64)
		settle(b)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := c.Set(ctx, bench.TTL, fmt.Sprint("k", next.Add(1)%10_000), raw); err != nil {
					b.Error(err)
				}
			}
		})
		b.StopTimer()
	})
	b.Run("lib=file", func(b *testing.B) {
		dir := b.TempDir()
		var next atomic.Int64
		callers(b, 64)
		settle(b)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := writeFile(dir, fmt.Sprint("k", next.Add(1)%10_000), raw); err != nil {
					b.Error(err)
				}
			}
		})
		b.StopTimer()
	})
}

// writeFile writes a file beside, has it synced, renames it, and has the folder synced.
func writeFile(dir, name, value string) error {
	f, err := os.CreateTemp(dir, name)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name+".json"))
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

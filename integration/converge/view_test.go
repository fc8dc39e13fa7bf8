package converge

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	groups "github.com/redaside/aside/internal/wire"
)

// A node may have two views, both with a grace: one is Clearable, and its values have a tag each; the
// other has raw values. What a view is asked, beside get and the like:
//
//	fetch, fetchmulti    Fetch and FetchMulti
//	refresh              Refresh
//	set, setmulti, del   Set, SetMulti, Del
//	expire               Expire
//	clear                Clear
//	deltags, expiretags  DelTags and ExpireTags of the first key's tag
//
// The keys of the last three are those that they concern.

// viewConfig is how the views are to be.
type viewConfig struct {
	Prefix        string        // of the keys of the Clearable one
	Grace         time.Duration // of both
	Jitter, Ahead float64
	Soft          time.Duration // WithSoftTimeout
}

// viewRequest is what a call to a view says beside its request.
type viewRequest struct {
	Strict  bool          // WithMaxStale(0)
	Fresh   bool          // WithFresh
	Without bool          // WithoutLoad
	MaxAge  time.Duration // WithMaxAge; 0: any
	Values  map[string]string
}

// views are those of a node. Immutable.
type views struct {
	client      *aside.Client
	prefix      string
	group, bare *aside.TypedClient[string]
}

func newViews(c *aside.Client, v *viewConfig) views {
	options := []aside.ViewOption{
		aside.WithGrace(v.Grace), aside.WithJitter(v.Jitter), aside.WithRefreshAhead(v.Ahead), aside.WithSoftTimeout(v.Soft),
		aside.WithErrorTTL(10 * time.Millisecond),
	}
	return views{
		client: c, prefix: v.Prefix, bare: aside.Typed(c, codec.String(), options...),
		group: aside.Typed(c, codec.String(), append(options, aside.WithPrefix(v.Prefix), aside.Clearable())...),
	}
}

// tagOf is the tag of a key of the Clearable view.
func tagOf(key string) string {
	return "tag of " + key[:strings.LastIndexByte(key, '/')] + key[len(key)-1:]
}

// written are the keys of Redis that a request writes.
func (v views) written(r request) []string {
	switch r.Verb {
	case "clear":
		return []string{groups.PrefixGroup(v.prefix)}
	case "deltags":
		return []string{groups.TagGroup(tagOf(r.Keys[0]))}
	case "expiretags":
		return []string{groups.ExpiredGroup(tagOf(r.Keys[0]))}
	}
	return r.Keys
}

var errSource = errors.New("the source fails")

// doView does what a view is asked.
func (n *local) doView(ctx context.Context, r request, a *answer) error {
	view, prefix := n.views.bare, ""
	var opts, tags []aside.CallOption
	if strings.HasPrefix(r.Keys[0], n.views.prefix) {
		view, prefix = n.views.group, n.views.prefix
		all := make([]string, len(r.Keys))
		for i, key := range r.Keys {
			all[i] = tagOf(key)
		}
		tags = append(tags, aside.WithTags(all...))
	}
	if r.View.Strict {
		opts = append(opts, aside.WithMaxStale(0))
	}
	if r.View.Fresh {
		opts = append(opts, aside.WithFresh())
	}
	if r.View.Without {
		opts = append(opts, aside.WithoutLoad())
	}
	if r.View.MaxAge > 0 {
		opts = append(opts, aside.WithMaxAge(r.View.MaxAge))
	}
	short := make([]string, len(r.Keys))
	for i, key := range r.Keys {
		short[i] = strings.TrimPrefix(key, prefix)
	}
	load := func(_ context.Context, key string) (string, error) {
		if value, ok := n.load([]string{prefix + key})[prefix+key]; ok {
			return value, nil
		}
		return "", errSource
	}
	a.Found, a.Stale = make(map[string]string), make(map[string]bool)
	switch r.Verb {
	case "fetch":
		got, err := view.Fetch(ctx, r.TTL, short[0], load, append(opts, tags...)...)
		if err != nil {
			return err
		}
		a.Found[r.Keys[0]], a.Stale[r.Keys[0]] = got.Value, got.Stale
	case "fetchmulti":
		found, err := view.FetchMulti(ctx, r.TTL, short, func(ctx context.Context, keys []string) (map[string]string, error) {
			full := make([]string, len(keys))
			for i, key := range keys {
				full[i] = prefix + key
			}
			values := make(map[string]string)
			for key, value := range n.load(full) {
				values[strings.TrimPrefix(key, prefix)] = value
				if prefix != "" {
					aside.LoadFrom(ctx).For(strings.TrimPrefix(key, prefix)).SetTags(tagOf(key))
				}
			}
			if len(values) == 0 {
				return nil, errSource
			}
			return values, nil
		}, opts...)
		for key, got := range found {
			a.Found[prefix+key], a.Stale[prefix+key] = got.Value, got.Stale
		}
		if len(found) == 0 {
			return err
		}
	case "refresh":
		value, err := view.Refresh(ctx, r.TTL, short[0], load, tags...)
		if err != nil {
			return err
		}
		a.Found[r.Keys[0]] = value
	case "set":
		return view.Set(ctx, r.TTL, short[0], r.Value, tags...)
	case "setmulti":
		values := make(map[string]string)
		for key, value := range r.View.Values {
			values[strings.TrimPrefix(key, prefix)] = value
		}
		err := view.SetMulti(ctx, r.TTL, values, tags...)
		batch, ok := errors.AsType[*aside.BatchError](err)
		if !ok {
			return err
		}
		a.Failed = make(map[string]string)
		for key, err := range batch.Failed {
			a.Failed[prefix+key] = err.Error()
		}
	case "del":
		return view.Del(ctx, short...)
	case "expire":
		return view.Expire(ctx, short...)
	case "clear":
		return view.Clear(ctx)
	case "deltags":
		return n.views.client.DelTags(ctx, tagOf(r.Keys[0]))
	case "expiretags":
		return n.views.client.ExpireTags(ctx, tagOf(r.Keys[0]))
	default:
		return errors.New("no such verb")
	}
	return nil
}

// crowd is how many callers ask a node's bare view for one key at a time, how often and for how long.
type crowd struct {
	Callers    int
	Every, For time.Duration
}

// crowd has many callers ask for one key.
func (n *local) crowd(r request) (a answer) {
	key := r.Keys[0]
	load := func(context.Context, string) (string, error) {
		if value, ok := n.load(r.Keys)[key]; ok {
			return value, nil
		}
		return "", errSource
	}
	var mu sync.Mutex // of a
	var all sync.WaitGroup
	began := time.Now()
	for i := range r.Crowd.Callers {
		all.Go(func() {
			time.Sleep(r.Crowd.Every * time.Duration(i) / time.Duration(r.Crowd.Callers)) // not all at the same moment
			var waits []int
			var failed []error
			tick := time.NewTicker(r.Crowd.Every)
			defer tick.Stop()
			for ; time.Since(began) < r.Crowd.For; <-tick.C {
				asked := time.Now()
				if _, err := n.views.bare.Get(context.Background(), r.TTL, key, load); err != nil {
					failed = append(failed, err)
				}
				waits = append(waits, int(time.Since(asked).Microseconds()))
			}
			mu.Lock()
			defer mu.Unlock()
			a.Calls, a.Errors, a.Waits = a.Calls+len(waits), a.Errors+len(failed), append(a.Waits, waits...)
			if len(failed) > 0 {
				a.FirstErr = failed[0].Error()
			}
		})
	}
	all.Wait()
	return a
}

package converge

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/fallback/journal"
	"github.com/redaside/aside/internal/harness"
)

// node is a process with a client: this one (local), or one that can be killed (process). Safe for
// concurrent use.
type node interface {
	do(request) answer
	end() error // closes the client; the process that can be killed ends with it
}

// request is one call.
type request struct {
	Verb     string // get, multi, peek, set, del, health; crowd; of a view: see view_test.go
	Keys     []string
	Value    string        // of set
	TTL      time.Duration // of get, multi, set
	Patience time.Duration // of the caller

	View  *viewRequest // nil: the client itself is asked
	Crowd crowd
}

// answer is what came of it.
type answer struct {
	Found   map[string]string // by key
	Err     string            // "": none
	Crashed bool              // the process ended before it could answer
	Asking  bool              // the client was not degraded, from before the call until after it
	Kept    []string          // keys of a write that are kept for replay

	Stale  map[string]bool   // of Found, where a view was asked
	Failed map[string]string // errors of single keys of a write, where a view was asked

	Calls, Errors int   // of a crowd
	Waits         []int // of its calls, in microseconds
	FirstErr      string

	Mode    aside.Mode // of health
	Pending int        // of health: Sets and Dels that wait to be replayed
	Fills   int        // of health
	Probes  []probing  // of health: those that have ended since it was asked last
}

// probing is a probe that was answered.
type probing struct {
	Began int64 // ns since 1970
	Took  time.Duration
}

// nodeConfig is how a node is to be.
type nodeConfig struct {
	Addr, Dir                                      string
	Sync                                           journal.Sync
	Flush                                          time.Duration
	ReplayRate                                     int
	RedisTimeout, StaleLease, LockTTL, DegradedTTL time.Duration
	MemoryBytes                                    int64
	Views                                          *viewConfig // nil: there are none
}

// loadFunc reads the source.
type loadFunc func(keys []string) map[string]string

// local is a node in this process.
type local struct {
	client *aside.Client
	dir    string
	load   loadFunc
	views  views

	mu     sync.Mutex     // guards all below
	kept   map[string]int // how often a write of the key was kept for replay
	probes []probing      // that health has not told yet
}

func newLocal(c nodeConfig, load loadFunc) (*local, error) {
	n := &local{load: load, dir: c.Dir, kept: make(map[string]int)}
	var err error
	n.client, err = aside.New(aside.Options{
		Redis:          rueidis.ClientOption{InitAddress: []string{c.Addr}},
		ConnectTimeout: 50 * time.Millisecond, RedisTimeout: c.RedisTimeout,
		LockTTL: c.LockTTL, StaleLease: c.StaleLease, DegradedTTL: c.DegradedTTL, MemoryBytes: c.MemoryBytes,
		FallbackDir: c.Dir, Fallback: fallback.Options{Sync: c.Sync, FlushInterval: c.Flush},
		ReplayRate: c.ReplayRate, Logger: slog.New(slog.DiscardHandler),
		Observer: aside.ObserverFunc(func(_ context.Context, e aside.Event) {
			n.mu.Lock()
			defer n.mu.Unlock()
			switch {
			case e.Kind == aside.EventJournaled:
				n.kept[e.Key]++
			case e.Kind == aside.EventProbe && e.Err == nil:
				n.probes = append(n.probes, probing{e.At.Add(-e.Duration).UnixNano(), e.Duration})
			}
		}),
	})
	if err == nil && c.Views != nil {
		n.views = newViews(n.client, c.Views)
	}
	return n, err
}

func (n *local) end() error { return harness.Closed(n.client, n.dir) }

func (n *local) do(r request) (a answer) {
	if r.Verb == "health" {
		h := n.client.Health()
		n.mu.Lock()
		defer n.mu.Unlock()
		a.Probes, n.probes = n.probes, nil
		a.Mode, a.Pending, a.Fills = h.Mode, h.Fallback.Sets+h.Fallback.Deletes, h.Fallback.Fills
		return a
	}
	if r.Verb == "crowd" {
		return n.crowd(r)
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.Patience)
	defer cancel()
	askingBefore, outages := n.asking()
	written := r.Keys
	if r.View != nil {
		written = n.views.written(r)
	}
	keptBefore := n.keptOf(written)
	var err error
	switch verb := r.Verb; {
	case r.View != nil:
		err = n.doView(ctx, r, &a)
	case verb == "get":
		var value string
		value, err = n.client.Get(ctx, r.TTL, r.Keys[0], func(_ context.Context, key string) (string, error) {
			if value, ok := n.load([]string{key})[key]; ok {
				return value, nil
			}
			return "", errors.New("the source has gone")
		})
		a.Found = map[string]string{r.Keys[0]: value}
	case verb == "multi":
		a.Found, err = n.client.GetMulti(ctx, r.TTL, r.Keys, func(_ context.Context, keys []string) (map[string]string, error) {
			return n.load(keys), nil
		})
	case verb == "peek":
		var value string
		var ok bool
		if value, ok, err = n.client.Peek(ctx, r.Keys[0]); ok {
			a.Found = map[string]string{r.Keys[0]: value}
		}
	case verb == "set":
		err = n.client.Set(ctx, r.TTL, r.Keys[0], r.Value)
	case verb == "del":
		err = n.client.Del(ctx, r.Keys...)
	default:
		err = errors.New("no such verb")
	}
	if err != nil {
		a.Err = err.Error()
		a.Found = nil
	}
	for i, times := range n.keptOf(written) {
		if times > keptBefore[i] {
			a.Kept = append(a.Kept, written[i])
		}
	}
	asking, after := n.asking()
	a.Asking = asking && askingBefore && outages == after
	return a
}

func (n *local) asking() (asking bool, outages int64) {
	s := n.client.Stats()
	return s.RedisConnected, s.Outages
}

func (n *local) keptOf(keys []string) (times []int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, key := range keys {
		times = append(times, n.kept[key])
	}
	return times
}

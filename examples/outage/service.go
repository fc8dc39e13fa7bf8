package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
)

// serviceEnv makes a process the service; it holds its serviceSettings.
const serviceEnv = "ASIDE_OUTAGE_SERVICE"

type serviceSettings struct{ Redis, Dir string }

const (
	ttl        = time.Hour
	replayRate = 400 // records a second; the default of 5,000 would be over before one could watch
)

// command is what the parent wants done, a line of JSON on stdin. The service ends with its stdin,
// so it does not outlive its parent.
type command struct {
	Do       string // the name of a method below
	Key      string
	Value    string
	Database string   // what a loader finds, "" for nothing: the parent plays the database, which lives through all this
	Keys     []string // of peek
	N        int
	For      time.Duration // of rush
}

// message is a line of JSON on stdout: first one "ready", then one "done" for each command, and in
// between what happens.
type message struct {
	Kind string // "ready", "done", "acked", "mode", "replay"
	At   int64  // of mode, in Unix nanoseconds: all processes run on this machine, so they share its clock

	Value  string
	Found  bool
	From   string
	Took   time.Duration
	Err    string
	Values map[string]string // of peek and rush
	Kept   map[string]string // of rush: those of them that Redis has not heard of, for certain

	Key      string // of acked
	Mode     string // of mode and status
	Calls    calls  // of rush
	Stored   fallback.Stats
	Done     int // of replay
	Total    int
	Report   string
	Finished bool
}

// calls is what came of a rush.
type calls struct {
	All, Failed int
	FirstError  string
	Longest     time.Duration
	Away        int           // of these, begun after the service had noticed that Redis is away
	AwayGet     time.Duration // the longest of those
	AwaySet     time.Duration
}

// service is one client of the library, and a way to tell it what to do.
type service struct {
	client *aside.Client
	awayAt atomic.Int64 // when it noticed, in Unix nanoseconds; 0: it has not

	mu  sync.Mutex // guards out: messages come from several goroutines
	out *json.Encoder
}

func runService(config string, in io.Reader, out io.Writer) error {
	signal.Ignore(os.Interrupt) // Ctrl-C reaches all of the terminal's processes; the parent decides what it means
	var set serviceSettings
	if err := json.Unmarshal([]byte(config), &set); err != nil {
		return err
	}
	s := &service{out: json.NewEncoder(out)}
	var err error
	s.client, err = aside.New(aside.Options{
		Redis:       rueidis.ClientOption{InitAddress: []string{set.Redis}},
		FallbackDir: set.Dir,
		Fallback:    fallback.Options{FlushInterval: time.Second}, // so that there are files to look at
		ReplayRate:  replayRate,
		OnReplay:    s.onReplay,
		Logger:      slog.New(slog.DiscardHandler), // the parent tells the story
	})
	if err != nil {
		return err
	}
	s.client.OnModeChange(s.onModeChange)
	s.send(message{Kind: "ready", Mode: s.client.Health().Mode.String(), Stored: s.client.Health().Fallback})
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var c command
		if err = json.Unmarshal(lines.Bytes(), &c); err != nil {
			break
		}
		m := s.do(context.Background(), c)
		m.Kind = "done"
		s.send(m)
	}
	return errors.Join(err, s.client.Close())
}

func (s *service) send(m message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.out.Encode(m) // a parent that has gone is noticed by stdin
}

func (s *service) onModeChange(change aside.ModeChange) {
	if change.To == aside.Degraded {
		s.awayAt.Store(change.At.UnixNano())
	}
	s.send(message{Kind: "mode", Mode: change.To.String(), At: change.At.UnixNano()})
}

func (s *service) onReplay(r aside.Replay) {
	s.send(message{Kind: "replay", Done: r.Done, Total: r.Report.Total, Report: r.Report.String(), Finished: !r.Running})
}

// do carries out a command, and reports how long it took and which tier answered, by the client's
// counters.
func (s *service) do(ctx context.Context, c command) (m message) {
	before, began := s.client.Stats(), time.Now()
	var err error
	switch c.Do {
	case "set":
		err = s.client.Set(ctx, ttl, c.Key, c.Value)
	case "del":
		err = s.client.Del(ctx, c.Key)
	case "get":
		m.Value, err = s.client.Get(ctx, ttl, c.Key, func(context.Context, string) (string, error) {
			if c.Database == "" {
				return "", aside.ErrNotFound
			}
			return c.Database, nil
		})
		m.Found = err == nil
		if errors.Is(err, aside.ErrNotFound) {
			err = nil
		}
	case "vouchers":
		for n := 1; n <= c.N && err == nil; n++ {
			err = s.client.Set(ctx, ttl, voucherKey(n), voucherValue)
		}
	case "peek":
		m.Values, err = s.peek(ctx, c.Keys)
	case "rush":
		m.Values, m.Kept, m.Calls = s.rush(ctx, c.N, c.For)
	case "orders":
		err = s.orders(ctx)
	case "status":
		h := s.client.Health()
		m.Mode, m.Stored = h.Mode.String(), h.Fallback
	default:
		err = fmt.Errorf("unknown command %q", c.Do)
	}
	m.Took, m.From = time.Since(began), from(before, s.client.Stats())
	if err != nil {
		m.Err = err.Error()
	}
	return m
}

func from(before, after aside.Stats) string {
	switch {
	case after.Journaled > before.Journaled, after.DiskHits > before.DiskHits:
		return "disk"
	case after.Loads > before.Loads:
		return "loader"
	case after.MemoryHits > before.MemoryHits:
		return "memory"
	}
	return "Redis"
}

// peek reads without loading.
func (s *service) peek(ctx context.Context, keys []string) (map[string]string, error) {
	found := make(map[string]string)
	for _, key := range keys {
		value, ok, err := s.client.Peek(ctx, key)
		if err != nil && !errors.Is(err, aside.ErrRedisAway) { // which here means that nobody knows the key
			return nil, err
		}
		if ok {
			found[key] = value
		}
	}
	return found, nil
}

// rush is what a busy hour looks like: callers that read a product and write into their carts,
// again and again. It returns what each cart holds at the end, and which of that was set when the
// service knew that Redis is away.
func (s *service) rush(ctx context.Context, callers int, lasts time.Duration) (contents, kept map[string]string, sum calls) {
	const carts, think = 6, 20 * time.Millisecond
	var mu sync.Mutex // guards what is returned
	contents, kept = make(map[string]string), make(map[string]string)
	timed := func(longest *time.Duration, call func() error) error {
		began := time.Now()
		err := call()
		took := time.Since(began)
		awayAt := s.awayAt.Load()
		mu.Lock()
		defer mu.Unlock()
		sum.All++
		sum.Longest = max(sum.Longest, took)
		if awayAt != 0 && began.UnixNano() > awayAt {
			sum.Away++
			*longest = max(*longest, took)
		}
		if err != nil {
			if sum.Failed++; sum.Failed == 1 {
				sum.FirstError = err.Error()
			}
		}
		return err
	}
	ends := time.Now().Add(lasts)
	var all sync.WaitGroup
	for caller := range callers {
		all.Go(func() { // ends with the time
			for n := 0; time.Now().Before(ends); n++ {
				_ = timed(&sum.AwayGet, func() error { // counted
					_, err := s.client.Get(ctx, ttl, "product:pear", func(context.Context, string) (string, error) { return pear, nil })
					return err
				})
				key, value := fmt.Sprintf("cart:%d-%d", caller, n%carts), fmt.Sprintf(`{"items":%d}`, n+1)
				away := s.awayAt.Load() != 0
				if timed(&sum.AwaySet, func() error { return s.client.Set(ctx, ttl, key, value) }) == nil {
					mu.Lock()
					if contents[key] = value; away {
						kept[key] = value
					}
					mu.Unlock()
				}
				time.Sleep(think)
			}
		})
	}
	all.Wait()
	return contents, kept, sum
}

// orders takes orders, one after another, each with a voucher that must not be used again. It
// reports each acknowledgement, and goes on until it is killed.
func (s *service) orders(ctx context.Context) error {
	for n := 1; ; n++ {
		if err := s.client.Set(ctx, ttl, orderKey(n), orderValue(n)); err != nil {
			return err
		}
		s.send(message{Kind: "acked", Key: orderKey(n)})
		if err := s.client.Del(ctx, voucherKey(n)); err != nil {
			return err
		}
		s.send(message{Kind: "acked", Key: voucherKey(n)})
	}
}

const (
	pear         = `{"stock":8}`
	voucherValue = `{"euro":5}`
)

func orderKey(n int) string   { return fmt.Sprintf("order:%d", n) }
func orderValue(n int) string { return fmt.Sprintf(`{"voucher":%d}`, n) }
func voucherKey(n int) string { return fmt.Sprintf("voucher:%d", n) }

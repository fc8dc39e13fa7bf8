package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redaside/aside"
)

// scene is one key, and a view of it in each process.
type scene struct {
	name  string
	means string
	opts  []aside.ViewOption
	inUse bool // it is asked for all the time, which WithRefreshAhead is for

	key    string
	source source
	views  []*aside.TypedClient[int]

	half, slow, failing outcomes
	loads               [3]int // in each of them, what led there included
	err                 error
}

func scenes() []*scene {
	graced := aside.WithGrace(grace)
	return []*scene{
		{name: "none", means: "at the end of a ttl all wait for the source, or get its error"},
		{name: "WithGrace(20s)", means: "all get the old value, while one process asks the source", opts: []aside.ViewOption{graced}},
		{name: "WithGrace, WithSoftTimeout(1s)", means: "the process that asks waits up to 1s for what is new", opts: []aside.ViewOption{graced, aside.WithSoftTimeout(time.Second)}},
		{name: "WithGrace, WithMaxStale(0)", means: "nothing old, even if that means an error", opts: []aside.ViewOption{graced, aside.WithMaxStale(0)}},
		{name: "WithRefreshAhead(0.4)", means: "asked for before the end, while the key is in use", opts: []aside.ViewOption{aside.WithRefreshAhead(0.4)}, inUse: true},
		{name: "WithGrace, WithRefreshAhead", means: "both: new in time, and old if that fails", opts: []aside.ViewOption{graced, aside.WithRefreshAhead(0.4)}, inUse: true},
		{name: "WithMaxAge(500ms)", means: "what is older is loaded again, whatever its ttl", opts: []aside.ViewOption{aside.WithMaxAge(500 * time.Millisecond)}},
	}
}

const ruler = 142 // its length

const oneRow = "%-31s| %-9s| %-16s| %-16s| %-6s| %s\n"

// tellOne prints the table of one key.
func tellOne(ctx context.Context, w io.Writer, addr, prefix string) error {
	all := scenes()
	var playing sync.WaitGroup
	for i, s := range all {
		s.key = fmt.Sprintf("%s%d", prefix, i)
		s.source.takes = loadTime
		playing.Go(func() { s.err = s.play(ctx, addr) })
	}
	fmt.Fprintf(w, "One key with a ttl of %v. Its source takes %v for an answer, and later as long to fail.\n"+
		"%d processes with %d callers each ask for it at once, three times:\n\n", ttl, loadTime, processes, callers)
	fmt.Fprintf(w, oneRow, "options", "at half", "ttl over,", "ttl over,", "loads", "what the option does")
	fmt.Fprintf(w, oneRow, "", "its ttl", "source slow", "source fails", "", "")
	fmt.Fprintln(w, strings.Repeat("-", ruler))
	playing.Wait()
	var errs []error
	for _, s := range all {
		if s.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, s.err))
			continue
		}
		fmt.Fprintf(w, oneRow, s.name, s.half, s.slow, s.failing, fmt.Sprintf("%d %d %d", s.loads[0], s.loads[1], s.loads[2]), s.means)
	}
	fmt.Fprint(w, "\nfresh: at once, within its ttl. new: after waiting for the source. old: at once, beyond its ttl. old*: the same, after a wait.\n"+
		"loads: how often the source was asked in each of the three, by both processes together.\n"+
		"With WithRefreshAhead the callers ask every 10ms in between, too: a key that nobody asks for is not refreshed.\n\n")
	return errors.Join(errs...)
}

// play asks for the key at the three moments.
func (s *scene) play(ctx context.Context, addr string) error {
	defer func() {
		for _, view := range s.views {
			_ = view.Client().Close() // the story is over either way
		}
	}()
	for range processes {
		_, view, err := newView(addr, 0, s.opts...)
		if err != nil {
			return err
		}
		s.views = append(s.views, view)
	}
	before := 0
	loads := func() int {
		now, _ := s.source.count()
		n := now - before
		before = now
		return n
	}
	if _, err := s.views[0].Get(ctx, ttl, s.key, s.source.load); err != nil {
		return err
	}
	ends, err := s.stored(ctx, 1)
	if err != nil {
		return err
	}
	loads() // the first one is nobody's
	s.use(ctx, ends.Add(-ttl/2))
	s.half = s.ask(ctx)
	s.loads[0] = loads()

	s.use(ctx, ends)
	s.slow = s.ask(ctx)
	newer, err := s.stored(ctx, 2)
	if err != nil {
		return err
	}
	s.loads[1] = loads()

	s.source.fail()
	s.use(ctx, newer)
	s.failing = s.ask(ctx)
	for s.source.failures() == 0 && ctx.Err() == nil { // a refresh goes on
		time.Sleep(time.Millisecond)
	}
	s.loads[2] = loads()
	return ctx.Err()
}

// stored waits until all processes find what the source has answered last, its version least or a
// later one, and returns a time shortly after that ends.
func (s *scene) stored(ctx context.Context, least int) (ends time.Time, err error) {
	for _, view := range s.views {
		for {
			found, err := view.Client().Look(ctx, s.key)
			if err != nil && !errors.Is(err, aside.ErrNotFound) {
				return ends, err
			}
			if version := s.source.latest(); version >= least && found.Value == strconv.Itoa(version) {
				left := found.TTL
				if left > ttl { // the grace is part of it
					left -= grace
				}
				ends = time.Now().Add(left + ttl/40)
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	return ends, nil
}

// use lets time pass.
func (s *scene) use(ctx context.Context, until time.Time) {
	timed, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	if !s.inUse {
		<-timed.Done()
		return
	}
	s.each(func(view *aside.TypedClient[int]) {
		for timed.Err() == nil {
			_, _ = view.Get(timed, ttl, s.key, s.source.load)
			time.Sleep(10 * time.Millisecond)
		}
	})
}

// each lets all callers of all processes do the same.
func (s *scene) each(do func(view *aside.TypedClient[int])) {
	var all sync.WaitGroup
	for _, view := range s.views {
		for range callers {
			all.Go(func() { do(view) })
		}
	}
	all.Wait()
}

// outcomes are how many callers got what.
type outcomes struct{ fresh, loaded, stale, waitedStale, errs int }

// ask has all callers ask for the key at once.
func (s *scene) ask(ctx context.Context) (got outcomes) {
	var mu sync.Mutex // of got
	s.each(func(view *aside.TypedClient[int]) {
		before := s.source.ended()
		r, err := view.Fetch(ctx, ttl, s.key, s.source.load)
		waited := s.source.ended() != before // the source has answered meanwhile
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil:
			got.errs++
		case r.Stale && waited:
			got.waitedStale++
		case r.Stale:
			got.stale++
		case waited:
			got.loaded++
		default:
			got.fresh++
		}
	})
	return got
}

func (a outcomes) String() string {
	var parts []string
	for _, part := range []struct {
		n    int
		name string
	}{{a.fresh, "fresh"}, {a.loaded, "new"}, {a.stale, "old"}, {a.waitedStale, "old*"}, {a.errs, "errors"}} {
		if part.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", part.n, part.name))
		}
	}
	return strings.Join(parts, ", ")
}

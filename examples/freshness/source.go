package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
)

// source stands for a database whose every answer takes a while, and which may fail. Safe for
// concurrent use.
type source struct {
	takes time.Duration // immutable

	mu     sync.Mutex // guards all below
	fails  bool
	failed int // loads
	loads  int // each is a version of the value
	last   int // the version that was answered last
	now    int // loads under way
	most   int // of them at once
}

var errSource = errors.New("the source fails")

func (s *source) load(ctx context.Context, _ string) (int, error) {
	s.mu.Lock()
	s.loads++
	s.now++
	s.most = max(s.most, s.now)
	version, fails := s.loads, s.fails
	s.mu.Unlock()
	var err error
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now--
	if err != nil {
		return 0, err
	}
	if fails {
		s.failed++
		return 0, errSource
	}
	s.last = max(s.last, version)
	return version, nil
}

func (s *source) fail() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = true
}

func (s *source) count() (loads, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loads, s.most
}

// latest returns the version that was answered last; 0 while one is under way.
func (s *source) latest() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now > 0 {
		return 0
	}
	return s.last
}

// ended returns how many loads are over.
func (s *source) ended() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loads - s.now
}

// failures returns how many loads have failed; 0 while one is under way.
func (s *source) failures() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now > 0 {
		return 0
	}
	return s.failed
}

// newView returns a view of a client of its own, which the caller closes.
func newView(addr string, maxLoads int, opts ...aside.ViewOption) (*aside.Client, *aside.TypedClient[int], error) {
	client, err := aside.New(aside.Options{
		Redis:        rueidis.ClientOption{InitAddress: []string{addr}},
		RequireRedis: true, // without it there is nothing to compare
		MaxLoads:     maxLoads,
		StampTTL:     time.Minute,
		Logger:       slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, nil, err
	}
	return client, aside.Typed(client, codec.JSON[int](), opts...), nil
}

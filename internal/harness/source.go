package harness

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Source is where values really live: a loader that counts, and that a test can hold up. Safe for
// concurrent use.
type Source struct {
	Calls atomic.Int64

	mu    sync.Mutex // guards what follows, up to the blank line
	value string
	err   error
	hold  chan struct{} // a call waits until it is closed; nil: it does not

	began chan string // gets the key of each call, if there is room
}

// NewSource has value for every key.
func NewSource(value string) *Source { return &Source{value: value, began: make(chan string, 1024)} }

// Set changes the value.
func (s *Source) Set(value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value = value
}

// Fail makes calls return err beside the value; nil: no longer.
func (s *Source) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// HoldUp makes calls wait, after they have read the value, until the returned function is called.
func (s *Source) HoldUp() (letGo func()) {
	hold := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold = hold
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hold = nil
		close(hold)
	})
}

// Load is a loader.
func (s *Source) Load(ctx context.Context, key string) (string, error) {
	s.Calls.Add(1)
	s.mu.Lock()
	value, err, hold := s.value, s.err, s.hold
	s.mu.Unlock()
	select {
	case s.began <- key:
	default:
	}
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	return value, err
}

// LoadMany is the loader of a batch: every key has the value.
func (s *Source) LoadMany(ctx context.Context, keys []string) (map[string]string, error) {
	value, err := s.Load(ctx, fmt.Sprint(len(keys)))
	values := make(map[string]string, len(keys))
	for _, key := range keys {
		values[key] = value
	}
	return values, err
}

// AwaitBegin waits until a loader call has begun.
func (s *Source) AwaitBegin(t testing.TB) {
	t.Helper()
	select {
	case <-s.began:
	case <-time.After(longest):
		t.Fatal("no loader was called")
	}
}

// MustNotLoad is a loader for what has to be there.
func MustNotLoad(context.Context, string) (string, error) {
	return "", errors.New("the loader was called")
}

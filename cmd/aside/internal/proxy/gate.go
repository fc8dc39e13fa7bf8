package proxy

import "context"

// Gate lets a number of callers in at a time; a nil Gate lets all in. Safe for concurrent use.
//
// golang.org/x/sync/semaphore would do as well but for one thing: it asks the context for Done even
// where there is room, which makes the timer that a [LazyContext] does without.
type Gate chan struct{}

// NewGate returns a Gate for n callers at a time; one without a limit if n is not above 0.
func NewGate(n int) Gate {
	if n <= 0 {
		return nil
	}
	return make(Gate, n)
}

// Enter waits for a place until ctx ends; then it returns ctx's error. Without an error the caller
// must Leave.
func (g Gate) Enter(ctx context.Context) error {
	if g == nil {
		return nil
	}
	select {
	case g <- struct{}{}:
		return nil
	default:
	}
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Leave gives back the place that Enter took.
func (g Gate) Leave() {
	if g != nil {
		<-g
	}
}

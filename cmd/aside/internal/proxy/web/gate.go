package web

import "context"

// gate lets a number of requests in at a time. Safe for concurrent use.
type gate chan struct{}

func newGate(n int) gate { return make(gate, n) }

// enter waits for a place until ctx ends; then it has ctx's error.
func (g gate) enter(ctx context.Context) error {
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

func (g gate) leave() { <-g }

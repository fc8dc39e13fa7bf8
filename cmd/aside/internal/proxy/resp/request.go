package resp

import (
	"context"
	"sync"
	"time"
)

// request is the context of one command. What is answered from memory never asks for Done, so the
// timer is made by who does. Safe for concurrent use.
type request struct {
	server   context.Context //nolint:containedctx // it is one
	deadline time.Time

	mu     sync.Mutex
	real   context.Context //nolint:containedctx // made by the first who asks for Done; guarded by mu
	cancel context.CancelFunc
	over   bool // the command has been answered; guarded by mu
}

func (r *request) Deadline() (time.Time, bool) { return r.deadline, true }

func (r *request) Done() <-chan struct{} { return r.made().Done() }

func (r *request) made() context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.real == nil {
		r.real, r.cancel = context.WithDeadline(r.server, r.deadline)
		if r.over {
			r.cancel()
		}
	}
	return r.real
}

func (r *request) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.real != nil:
		return r.real.Err()
	case r.over:
		return context.Canceled
	case !time.Now().Before(r.deadline):
		return context.DeadlineExceeded
	}
	return r.server.Err()
}

// Value is the made context's where there is one, so that contexts that derive from this one find
// what to hang on to.
func (r *request) Value(key any) any {
	r.mu.Lock()
	made := r.real
	r.mu.Unlock()
	if made != nil {
		return made.Value(key)
	}
	return r.server.Value(key)
}

// end ends the context. again says that nobody has asked for Done, as everybody does who keeps a
// context: it may begin anew.
func (r *request) end() (again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	if r.cancel != nil {
		r.cancel()
	}
	return r.real == nil
}

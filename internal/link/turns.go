package link

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// turns lets large values pass one after the other, so that no more than mostAhead of them are
// ahead of a small command. Safe for concurrent use.
type turns struct {
	mu   sync.Mutex
	out  int64   // bytes of those that are under way; guarded by mu
	next []*turn // those that wait, in order; guarded by mu
}

type turn struct {
	bytes int64
	come  chan struct{} // closed when it has come
}

// take waits until so many bytes may pass, or ctx ends. give must follow, if it does not return
// false.
func (t *turns) take(ctx context.Context, bytes int64) bool {
	t.mu.Lock()
	mine := &turn{bytes, make(chan struct{})}
	t.next = append(t.next, mine)
	t.callLocked()
	t.mu.Unlock()
	select {
	case <-mine.come:
		return true
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.next, mine); i >= 0 {
		t.next = slices.Delete(t.next, i, i+1)
	} else {
		t.out -= bytes
	}
	t.callLocked() // the one behind may fit
	return false
}

func (t *turns) give(bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.out -= bytes
	t.callLocked()
}

// callLocked calls those that may pass: the first, whatever its size, if none is under way.
func (t *turns) callLocked() {
	for len(t.next) > 0 && (t.out == 0 || t.out+t.next[0].bytes <= mostAhead) {
		t.out += t.next[0].bytes
		close(t.next[0].come)
		t.next = t.next[1:]
	}
}

// InTurn has do ask calls, when it is their turn if they are large.
func (l *Link) InTurn(ctx context.Context, sh *Shard, calls []*Call, do func()) {
	bytes, expected := sizes(calls)
	if large := max(bytes, expected); sh.Asks() && large >= MaxBatchBytes {
		if !sh.turns.take(ctx, large) {
			for _, q := range calls {
				q.Err = fmt.Errorf("%w: %w", ErrNotAsked, ctx.Err())
			}
			return
		}
		defer sh.turns.give(large)
	}
	do()
}

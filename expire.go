package aside

import (
	"context"
	"fmt"
	"time"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/wire"
)

// Expire makes stale what Del would remove: from now on each of keys lives for grace at most, and
// never longer than it would have. So a view that gives its values this grace ([WithGrace]) serves
// the old value once more and has it refreshed, where after a Del its callers would wait for the
// loader, and get its error. A reader with less grace, or none, takes the value for fresh until then:
// use Del where nothing old may be read.
//
// grace is what the readers of the keys give; a Client has none of its own. With 0 it is a Del: what
// has no grace has nothing to be served from. A cached absence becomes stale, too. A lock is removed,
// and a load or refresh that runs is not stored, as with Del: it may have read what was there before.
//
// Other processes hear of it as of a Del. While Redis is away it is kept and replayed as a Del, as
// nobody knows what Redis holds by then; this process loads the key when it is next asked for. The
// errors are those of Del, and ErrInvalidArgument for a grace that is negative or longer than
// [LongestTTL].
func (c *Client) Expire(ctx context.Context, grace time.Duration, keys ...string) error {
	return writer{c}.expire(ctx, "", grace, keys)
}

func (c writer) expire(ctx context.Context, view string, grace time.Duration, keys []string) error {
	switch {
	case grace == 0:
		return c.del(ctx, view, keys)
	case grace > LongestTTL:
		return fmt.Errorf("%w: grace is %v: must be at most %v", ErrInvalidArgument, grace, LongestTTL)
	}
	if err := tooShort("grace", grace, "must be positive, or 0 for a Del"); err != nil {
		return err
	}
	args := append([]string{script.InMilliseconds(grace), wire.LockPrefix}, wire.PeerPrefixes()...)
	w := &write{writer: c, verb: "expire", view: view, script: script.Expire, bare: script.ExpireBare, op: fallback.OpDel, args: args, alone: true}
	return w.do(ctx, keys...)
}

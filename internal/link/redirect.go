package link

import (
	"context"
	"fmt"

	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/reason"
)

// RedirectTarget is the connection on which a shard tells of changes, as others name it.
type RedirectTarget struct {
	Server string // its run id
	ID     int64  // what CLIENT ID says of the connection there
	Epoch  uint64 // of the shard's Validity, in which it is that connection
}

// RedirectTarget asks sh for its RedirectTarget. The error is ErrNoInvalidations if Redis refuses to say, ErrRedisAway if there is none now, or it is
// not certain which it is.
//
// A connection that is dialed begins an epoch before it is used, so what is answered within one epoch comes from
// its connection.
func (l *Link) RedirectTarget(ctx context.Context, sh *Shard) (RedirectTarget, error) {
	epoch, run := sh.Valid.Epoch(), sh.run.Load()
	if !sh.Asks() || !sh.Valid.Pushes() || sh.several() || run == nil || run.id == "" || run.replica || run.connection != sh.Valid.Connection() {
		return RedirectTarget{}, ErrNotAsked
	}
	ctx, cancel := context.WithTimeout(ctx, l.opt.RedisTimeout)
	defer cancel()
	id, err := sh.client.Do(ctx, sh.client.B().ClientId().Build()).AsInt64()
	switch _, reply := replyOf(err); {
	case reply:
		return RedirectTarget{}, fmt.Errorf("%w where they could be asked for: Redis refuses CLIENT ID: %w", ErrNoInvalidations, err)
	case err != nil:
		return RedirectTarget{}, fmt.Errorf("%w: %w", ErrRedisAway, reason.Of(err))
	case sh.run.Load() != run || sh.Valid.Epoch() != epoch:
		return RedirectTarget{}, ErrNotAsked
	}
	return RedirectTarget{run.id, id, epoch}, nil
}

// Proven is when the latest probe was sent that has proven that the server of valid tells of changes, in Now's time; not
// positive: none has.
func (l *Link) Proven(valid *near.Validity) int64 {
	return valid.LatestProof() - int64(l.opt.StaleLease)
}

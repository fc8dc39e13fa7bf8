package aside

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/reason"
)

// RedirectTarget is the connection on which a server tells a Client of changes. A program that reads keys by a connection of its own,
// as a proxy does with commands that it passes on, can have what it reads told there ("CLIENT TRACKING ON REDIRECT"),
// and have the Client's memory keep it, for when Redis is away. It is for keys that hold no strings: those the Client reads itself.
//
// A RedirectTarget is good until that connection ends, Redis is flushed, or slots of the server go elsewhere, which Listens tells. Safe for
// concurrent use.
type RedirectTarget struct {
	Addr   string // of the server, as Health has it: "" unless Redis is a cluster
	Server string // run_id of the server: a connection that leads to another one cannot be told there
	ID     int64  // CLIENT ID of the connection

	c     *Client
	valid *near.Validity
	epoch uint64
}

// RedirectTarget asks a server for the Client's RedirectTarget there. addr says which: that of a shard as Health has it, "" unless Redis is a
// cluster. The error is ErrRedisAway if it does not say now, or is no primary, as far as is known; ErrNoInvalidations if there is
// none: Redis does not tell of changes, or refuses CLIENT ID, or the Client has no memory.
func (c *Client) RedirectTarget(ctx context.Context, addr string) (*RedirectTarget, error) {
	shards := c.link.Shards()
	i := slices.IndexFunc(shards, func(sh *link.Shard) bool { return sh.Addr == addr })
	switch {
	case c.lifecycle.ctx.Err() != nil:
		return nil, ErrClosed
	case !c.near.Keeps() || i >= 0 && !shards[i].Valid.Tracked():
		return nil, fmt.Errorf("aside: cannot tell by which connection: %w, or there is no memory", ErrNoInvalidations)
	case i < 0:
		return nil, fmt.Errorf("aside: cannot tell by which connection changes are told: %w", ErrRedisAway)
	}
	found, err := c.link.RedirectTarget(ctx, shards[i])
	if err != nil {
		return nil, fmt.Errorf("aside: cannot tell by which connection changes are told: %w", reason.Of(err))
	}
	return &RedirectTarget{Addr: addr, Server: found.Server, ID: found.ID, c: c, valid: shards[i].Valid, epoch: found.Epoch}, nil
}

// Listens reports whether e is still the connection on which changes are told.
func (e *RedirectTarget) Listens() bool { return e.valid.Epoch() == e.epoch && e.valid.Pushes() }

// Proven is when it was last proven that the server tells the Client of changes, on whichever connection: all that was told
// before has been heard. The zero time if it never was.
func (e *RedirectTarget) Proven() time.Time {
	at := e.c.link.Proven(e.valid)
	if at <= 0 {
		return time.Time{}
	}
	return e.c.wall(at)
}

// ReadReservation is the right to keep what is read of a key. The zero ReadReservation keeps nothing.
type ReadReservation struct {
	e   *RedirectTarget
	key string
	r   near.Reservation
}

// Reserve must be called before the command is sent that reads key.
func (e *RedirectTarget) Reserve(key string) ReadReservation {
	return ReadReservation{e, key, e.c.near.Reserve(key, e.valid)}
}

// Keep has memory keep what was read of the key, in any form: content, which must not be part of a longer string. ttl is
// what the key has left; negative: it does not expire. The command must have been sent by a connection that had asked to be told at
// the RedirectTarget before, and that stands: only its caller can know that. Keep reports whether it is kept: not if the
// key has changed since Reserve, the RedirectTarget does not listen any more, its server does not have the key's slot, or there is no room.
func (o ReadReservation) Keep(content string, ttl time.Duration) bool {
	return o.stands() && o.e.c.near.PutOther(o.key, o.r, content, ttl, nil) != nil
}

// Unite is Keep of what join makes of what was read and of what was kept of the key before, "" if that was nothing. It is
// kept no longer than what was kept before would have been, if that was something; where join returns "", all stays as it is.
//
// No change was told of either. So both are what the key holds, once Redis is proven to have told of all that was changed until now (Proven);
// before, they may be of different times.
func (o ReadReservation) Unite(ttl time.Duration, join func(before string) (content string)) bool {
	if !o.stands() {
		return false
	}
	before, raw := o.e.c.near.OtherUnder(o.key, o.r), ""
	if before != nil {
		raw = before.Raw()
	}
	content := join(raw)
	return content != "" && o.e.c.near.PutOther(o.key, o.r, content, ttl, before) != nil
}

func (o ReadReservation) stands() bool { return o.e != nil && o.r.Epoch() == o.e.epoch }

// Redirected returns what ReadReservation.Keep has kept of key, with what is left of its life: as long as memory would
// answer a value in its place. It asks nobody and counts nothing.
func (c *Client) Redirected(key string) (content string, ttl time.Duration, ok bool) {
	return c.redirected(c.near.Other(key))
}

// RedirectedBefore returns what ReadReservation.Keep has kept of key, which Redirected does not return any more as this process has changed the
// key since by operations that wait for Redis: it is what the key held before all operations that Kept returns. It is known in the
// outage in which they were made, until the key ends by it or by one of them, and not behind a Set or Del.
func (c *Client) RedirectedBefore(key string) (content string, ttl time.Duration, ok bool) {
	return c.redirected(c.near.OtherBefore(key))
}

func (c *Client) redirected(e *near.Entry) (content string, ttl time.Duration, ok bool) {
	if e == nil {
		return "", 0, false
	}
	ttl = -1
	if ends, ok := e.Ends(); ok {
		ttl = time.Duration(ends - c.link.Now())
		if ttl <= 0 {
			return "", 0, false
		}
	}
	return e.Raw(), ttl, true
}

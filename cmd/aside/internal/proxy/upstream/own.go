package upstream

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// Own is a connection that one client has for itself. It belongs to one goroutine, but for Close.
type Own struct {
	*dialed
	pool     *Pool
	login    *Login  // whose it is; nil: the proxy's own user is logged in
	wrote    bool    // by Wrote
	told     *shared // to which the node tells what was read here and has changed; nil: to none
	node     *node
	protocol int
	since    time.Time // when it became idle
	ended    sync.Once
	old      bool // it is not given to others: the server is a replica now, or it has logged in as another user
}

// Do sends a batch and waits for its replies, until alive, which is asked now and then, reports that
// nothing is waited for any more. After an error the connection must be closed. The error is
// ErrLost.
func (o *Own) Do(b *Batch, alive func() bool) error {
	err := o.write(b.Request)
	for err == nil && len(b.Ends) < b.Commands {
		o.frames.share = &b.Share
		var replies []byte
		var kind byte
		if replies, kind, err = o.next(b.Replies, alive); err == nil && kind != '>' {
			o.old = o.old || kind == '-' && isReadOnly(replies[len(b.Replies):])
			b.Replies = replies
			b.Ends = append(b.Ends, len(replies))
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	return nil
}

// next appends the next reply to buf.
func (o *Own) next(buf []byte, alive func() bool) (replies []byte, kind byte, err error) {
	if err := o.await(aliveEvery, alive); err != nil {
		return buf, 0, err
	}
	replies, kind, _, err = o.frames.next(buf)
	return replies, kind, err
}

// await waits for the next reply to begin, and asks alive every so often whether to wait on.
func (o *Own) await(every time.Duration, alive func() bool) error {
	for o.frames.Buffered() == 0 {
		if err := o.SetReadDeadline(time.Now().Add(every)); err != nil {
			return err
		}
		if _, err := o.frames.Peek(1); err == nil {
			break
		} else if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if up := o.pool.options.Up; !alive() || up != nil && o.node.address != "" && !up(o.node.address) {
			return errGivenUp
		}
	}
	return o.SetReadDeadline(time.Now().Add(arrivesIn))
}

const arrivesIn = 30 * time.Second // that a reply which has begun may take

// errGivenUp is why a reply is missing that nobody waits for.
var errGivenUp = errors.New("nobody waits for it any more")

// Send sends commands without waiting for replies, which Receive gets.
func (o *Own) Send(request []byte) error { return o.write(request) }

// Receive appends the next reply, or message, to buf. It waits until the connection is closed, or
// alive, which is asked once a second, reports that Redis is away. Another goroutine may Send
// meanwhile. The bytes are held in share.
func (o *Own) Receive(buf []byte, share *proxy.Share, alive func() bool) ([]byte, error) {
	if err := o.await(time.Second, alive); err != nil {
		return nil, err
	}
	o.frames.share = share
	all, _, tooLarge, err := o.frames.next(buf)
	if err == nil && tooLarge {
		err = errTooLarge
	}
	return all, err
}

// errTooLarge means that there is no room for a reply or message.
var errTooLarge = errors.New("upstream: a reply is larger than what may be held now")

func (o *Own) write(request []byte) error {
	if err := o.SetWriteDeadline(time.Now().Add(o.pool.options.WriteTimeout)); err != nil {
		return err
	}
	_, err := o.Conn.Write(request)
	return err
}

// Wrote says that something may have been written on the connection, of which Login.Wait is to know.
func (o *Own) Wrote() { o.wrote = true }

// Close ends the connection. It may be called at any time, by anybody, and more than once.
func (o *Own) Close() {
	o.ended.Do(func() {
		o.Conn.Close()
		if o.login != nil && o.wrote {
			o.login.lost.Store(true)
		}
		if o.told != nil { // the node forgets what was read here
			o.login.forget()
		}
		o.pool.options.Open.Give(1)
		o.pool.own.Give(1)
	})
}

// Release gives the connection to the next client, or back to its Login. Nothing of this one may be left
// on it: no transaction, no watched key, no subscription.
func (o *Own) Release() {
	o.since = time.Now()
	o.frames.share = nil
	if o.login != nil {
		o.login.keep(o)
		return
	}
	p := o.pool
	p.mu.Lock()
	old := slices.IndexFunc(p.idle, func(other *Own) bool { return o.since.Sub(other.since) < idleFor })
	if old < 0 {
		old = len(p.idle)
	}
	drop := slices.Clone(p.idle[:old])
	p.idle = slices.Delete(p.idle, 0, old)
	if kept := !p.closed && !o.old && len(p.idle) < mostIdle; kept {
		p.idle = append(p.idle, o)
	} else {
		drop = append(drop, o)
	}
	p.mu.Unlock()
	for _, other := range drop {
		other.Close()
	}
}

// fresh reports whether nothing has happened to a connection that was idle: Redis has neither closed
// it nor sent anything.
func (o *Own) fresh() bool {
	return time.Since(o.since) < idleFor && o.quiet()
}

// quiet is fresh, however long the connection was idle.
func (o *Own) quiet() bool {
	switch {
	case o.frames.Buffered() > 0:
		return false
	case nothingCame(o.Conn):
		return o.SetDeadline(time.Time{}) == nil
	case o.SetReadDeadline(time.Now().Add(time.Millisecond/10)) != nil: // the runtime makes a millisecond of it, or more
		return false
	}
	_, err := o.frames.Peek(1)
	return errors.Is(err, os.ErrDeadlineExceeded) && o.SetDeadline(time.Time{}) == nil
}

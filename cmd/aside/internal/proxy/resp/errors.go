package resp

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/cmd/aside/internal/proxy/upstream"
)

const (
	wrongType     = "WRONGTYPE Operation against a key holding the wrong kind of value"
	internalError = "ERR internal error: this is a bug in the proxy, and its log says more"
)

var errPanicked = errors.New("resp: a command panicked")

// describeError is the error reply for what the Store has returned; see the package comment. wrote:
// it may have changed something.
func (c *conn) describeError(err error, wrote bool) string {
	var refused *rueidis.RedisError
	var said upstream.ServerError
	switch {
	case errors.Is(err, errPanicked):
		return internalError
	// Before what Redis has said: that it is away may come with the words by which it said so.
	case errors.Is(err, aside.ErrFull):
		return "ASIDEFULL Redis is away and the fallback directory is full: this was not done"
	case errors.Is(err, aside.ErrDisk):
		return "ASIDEDISK Redis is away and the fallback directory cannot be written: this was not done"
	case errors.Is(err, aside.ErrNotDurable):
		return "ASIDEDEGRADED Redis is away and there is no fallback directory: kept in memory only until Redis is back, lost if the proxy ends before"
	case errors.Is(err, aside.ErrUnknownOutcome):
		return "ASIDEUNKNOWN Redis has not answered: this may or may not have been done"
	case errors.Is(err, upstream.ErrTooMany):
		return "ASIDEBUSY too many clients have a connection to Redis of their own, which this needs: nothing was done"
	case errors.Is(err, upstream.ErrLost) && wrote:
		return "ASIDEUNKNOWN Redis has not answered: this may or may not have been done"
	case errors.Is(err, upstream.ErrLost):
		return "ASIDEDEGRADED Redis has not answered, and what this proxy has does not answer this"
	case errors.Is(err, proxy.ErrDegraded), errors.Is(err, upstream.ErrNotSent), errors.Is(err, aside.ErrRedisAway):
		if wrote {
			return "ASIDEDEGRADED Redis is away and this cannot be done without it: nothing was changed"
		}
		return "ASIDEDEGRADED Redis is away and what this proxy has does not answer this"
	case errors.As(err, &said):
		return string(said)
	case isOfList(err):
		return describeList(err)
	case errors.As(err, &refused):
		if isWrongType(err) {
			return wrongType
		}
		return withCode(withoutScript(refused.Error()))
	case errors.Is(err, proxy.ErrReserved):
		return "ERR " + proxy.ErrReserved.Error()
	case errors.Is(err, aside.ErrTooLarge):
		return fmt.Sprintf("ERR the key or value is too large: keys may have %d bytes (service.max_key_bytes), values %d (service.max_value_bytes)",
			c.server.options.MaxKeyBytes, c.server.options.MaxValueBytes)
	case errors.Is(err, errContended):
		return "ASIDEBUSY too many others change this key: nothing was done"
	case errors.Is(err, proxy.ErrConcurrency):
		return "ASIDEBUSY too many requests are being served, and it was not this one's turn in time: nothing was done"
	case errors.Is(err, aside.ErrClosed), c.server.ctx.Err() != nil:
		return "ASIDECLOSED the proxy is shutting down"
	case errors.Is(err, context.DeadlineExceeded) && wrote:
		return "ASIDEUNKNOWN the time for one command is over: this may or may not have been done"
	case errors.Is(err, context.DeadlineExceeded):
		return "ASIDETIMEOUT the time for one command is over"
	}
	c.server.options.Logger.Error("resp: a command failed for a reason that has no reply of its own", "error", err)
	return internalError
}

func (c *conn) fail(err error)      { c.error(c.describeError(err, false)) }
func (c *conn) failWrite(err error) { c.error(c.describeError(err, true)) }

// isWrongType says that a key holds no string. Before Redis 7 a script's error begins with where in
// the script it was.
func isWrongType(err error) bool {
	var refused *rueidis.RedisError
	return errors.As(err, &refused) && strings.Contains(refused.Error(), wrongType)
}

// withoutScript takes off what Redis says of the script in which a command was refused: clients
// have sent none. Redis 7 says it behind the error, those before it ahead of it.
func withoutScript(text string) string {
	if before, _, ok := strings.Cut(text, " script: "); ok && strings.Contains(text, ", on @user_script") {
		return before
	}
	if strings.HasPrefix(strings.TrimPrefix(text, "ERR "), "Error running script") {
		if i := strings.LastIndex(text, "@user_script: "); i >= 0 {
			if _, after, ok := strings.Cut(text[i+len("@user_script: "):], ": "); ok {
				return strings.TrimPrefix(after, "-")
			}
		}
	}
	return text
}

// withCode gives an error reply its first word back, which rueidis takes off where it is ERR.
func withCode(text string) string {
	switch word, _, _ := strings.Cut(text, " "); word {
	case "BUSY", "CLUSTERDOWN", "CROSSSLOT", "LOADING", "MASTERDOWN", "MISCONF", "NOAUTH", "NOPERM", "NOREPLICAS", "NOSCRIPT", "OOM", "READONLY",
		"TRYAGAIN", "WRONGTYPE":
		return text
	}
	return "ERR " + text
}

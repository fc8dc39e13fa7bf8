package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// problemBase begins the type of each problem; the page has a section for each.
const problemBase = "https://github.com/redaside/aside/blob/main/docs/PROXY.md#problem-"

// statusLeft is what metrics count of a client that did not wait for its answer, as others do;
// nobody is sent it.
const statusLeft = 499

// problemKind is a type of problem: what a program branches on.
type problemKind struct {
	name   string // the end of its URI
	status int
	title  string
	retry  bool // the same request may succeed in a second
}

var (
	problemNotFound     = problemKind{"not-found", http.StatusNotFound, "There is no value under this key", false}
	problemNotCached    = problemKind{"not-cached", http.StatusGatewayTimeout, "There is no value under this key, and only-if-cached asks for one", false}
	problemNoSuchPath   = problemKind{"no-such-path", http.StatusNotFound, "There is nothing at this path", false}
	problemMethod       = problemKind{"method", http.StatusMethodNotAllowed, "This method is not served here", false}
	problemInvalid      = problemKind{"invalid", http.StatusBadRequest, "The request is not valid", false}
	problemKeyTooLong   = problemKind{"key-too-long", http.StatusRequestURITooLong, "The key is too long", false}
	problemTooLarge     = problemKind{"too-large", http.StatusRequestEntityTooLarge, "The value is too large", false}
	problemMedia        = problemKind{"media", http.StatusUnsupportedMediaType, "Values are not decoded, and so not stored encoded", false}
	problemPrecondition = problemKind{"precondition", http.StatusPreconditionFailed, "A precondition does not hold", false}
	problemConditional  = problemKind{"conditional-write", http.StatusNotImplemented, "Writes cannot be conditional", false}
	problemUnauthorized = problemKind{"unauthorized", http.StatusUnauthorized, "A token is needed", false}
	problemCrossOrigin  = problemKind{"cross-origin", http.StatusForbidden, "Pages of other origins may not write", false}
	problemHost         = problemKind{"host", http.StatusMisdirectedRequest, "This name is not that of this machine", false}
	problemBodyTimeout  = problemKind{"body-timeout", http.StatusRequestTimeout, "The body did not arrive in time", true}
	problemBusy         = problemKind{"busy", http.StatusServiceUnavailable, "Too many requests are being served", true}
	problemStopping     = problemKind{"stopping", http.StatusServiceUnavailable, "The proxy is about to stop", true}
	problemDegraded     = problemKind{"degraded", http.StatusServiceUnavailable, "Redis is away, and what the proxy has does not answer this", true}
	problemNotDurable   = problemKind{"not-durable", http.StatusServiceUnavailable, "Redis is away: kept in memory only", true}
	problemTimeout      = problemKind{"timeout", http.StatusGatewayTimeout, "There was no answer in time", true}
	problemUnknown      = problemKind{"unknown-outcome", http.StatusGatewayTimeout, "It may or may not have been done", true}
	problemFull         = problemKind{"full", http.StatusInsufficientStorage, "There is no room for this until Redis is back", true}
	problemDisk         = problemKind{"disk", http.StatusInternalServerError, "The fallback directory could not be written", true}
	problemRefused      = problemKind{"refused", http.StatusBadGateway, "Redis has refused this", false}
	problemDrill        = problemKind{"drill", http.StatusConflict, "No drill can run now", false}
	problemInternal     = problemKind{"internal", http.StatusInternalServerError, "Something went wrong in the proxy", false}
	problemGone         = problemKind{"client-left", statusLeft, "The client has left", false}
)

// problem is one that has occurred.
type problem struct {
	kind   problemKind
	detail string // field, value, remedy
}

func invalid(err error) problem { return problem{problemInvalid, err.Error()} }

// problemOf says what an error of the Store is to a client.
func problemOf(err error) problem {
	is := func(target error) bool { return errors.Is(err, target) }
	why := func(remedy string) string { return err.Error() + "; " + remedy }
	_, reply := errors.AsType[*rueidis.RedisError](err)
	if bad, ok := errors.AsType[*badDemand](err); ok {
		return invalid(bad.error)
	}
	switch {
	case is(errOnlyCached):
		return problem{problemNotCached, "no value was put under this key, or it has expired, or was deleted; leave only-if-cached out to be told so by 404"}
	case is(errStale):
		return problem{problemNotFound, "the value has expired, and is kept for who takes what is stale: put it anew, or ask with Cache-Control: max-stale or stale-if-error"}
	case is(aside.ErrNotFound):
		return problem{problemNotFound, "no value was put under this key, or it has expired, or was deleted"}
	case is(aside.ErrTooLarge):
		return problem{problemTooLarge, why("make it smaller, or raise service.max_key_bytes or service.max_value_bytes")}
	case is(proxy.ErrReserved):
		return problem{problemInvalid, "key: " + err.Error()}
	case is(aside.ErrInvalidArgument):
		return problem{problemInvalid, why("correct the request")}
	case is(aside.ErrFull):
		return problem{problemFull, why("it was not done: make room on the disk, or raise fallback.max_bytes, or wait for Redis")}
	case is(aside.ErrDisk):
		return problem{problemDisk, why("it was not done: see to the disk or the directory's rights, or wait for Redis")}
	case is(aside.ErrNotDurable):
		return problem{problemNotDurable, why("it is done as far as this process goes, and in Redis once that is back, " +
			"but lost if the process ends before; set fallback.dir to have it on disk")}
	case is(aside.ErrUnknownOutcome):
		return problem{problemUnknown, why("read the key, or do it again: doing it twice is harmless")}
	case is(proxy.ErrConcurrency):
		if is(context.Canceled) {
			return problem{problemGone, err.Error()}
		}
		return problem{problemBusy, why("try again, or raise service.max_requests or service.concurrency")}
	case is(aside.ErrOverloaded):
		return problem{problemBusy, why("try again")}
	case is(aside.ErrClosed):
		return problem{problemStopping, why("try again elsewhere")}
	case is(proxy.ErrDegraded), is(aside.ErrRedisAway):
		return problem{problemDegraded, why("whether Redis has the key is not known; try again when it is back")}
	case is(context.Canceled):
		return problem{problemGone, err.Error()}
	case is(context.DeadlineExceeded):
		return problem{problemTimeout, why("try again, or raise service.request_timeout")}
	case reply:
		return problem{problemRefused, why("see Redis's own message")}
	}
	return problem{problemInternal, err.Error()}
}

// fail answers with a problem, as RFC 9457 has it.
func (x *exchange) fail(p problem) {
	h := x.w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if p.kind.retry && p.kind.status != http.StatusRequestTimeout {
		h.Set("Retry-After", "1")
	}
	body, err := json.Marshal(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{problemBase + p.kind.name, p.kind.title, p.kind.status, strings.ToValidUTF8(p.detail, "\uFFFD")})
	if err != nil {
		panic(fmt.Errorf("a struct of strings is not JSON: %w", err))
	}
	body = append(body, '\n')
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if p.kind != problemNotFound && p.kind != problemNotCached {
		x.o.Logger.Debug("aside: a request failed", "method", x.r.Method, "status", p.kind.status, "problem", p.kind.name, "detail", p.detail)
	}
	x.answer(p.kind.status)
	if x.r.Method != http.MethodHead {
		_, _ = x.w.Write(body)
	}
}

package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

const (
	octets          = "application/octet-stream"
	maxContentType  = 255      // bytes
	aFewBytes       = 64 << 10 // what is allocated on a Content-Length's word
	noCacheStatus   = "aside; fwd=miss"
	writeStatus     = "aside; fwd=method"
	degradedStatus  = "aside; fwd=miss; detail=degraded"
	modeHeader      = "Aside-Mode"
	cacheStatusName = "Cache-Status"
)

// keyCommand is what metrics call a request for a key.
func keyCommand(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete:
		return strings.ToLower(method)
	}
	return "other"
}

// do serves a request for values: authorized, within RequestTimeout, counted and timed.
func (x *exchange) do(command string, serve func(ctx context.Context)) {
	x.began = time.Now()
	x.metrics.inFlight.Inc()
	defer func() {
		x.metrics.inFlight.Dec()
		status, took := x.status, x.took
		if status == 0 { // it has panicked, and ServeHTTP is about to answer
			status, took = http.StatusInternalServerError, time.Since(x.began)
		}
		x.metrics.observeHTTP(command, took, status)
	}()
	if !x.authorized() {
		return
	}
	ctx := proxy.NewLazyContext(x.r.Context(), x.began.Add(x.o.RequestTimeout))
	defer ctx.End()
	serve(ctx)
}

// work runs one request to the Store when it is its turn.
func (x *exchange) work(ctx context.Context, ask func() error) error {
	if err := x.turns.Enter(ctx); err != nil {
		return fmt.Errorf("%w: %w", proxy.ErrConcurrency, err)
	}
	defer x.turns.Leave()
	return ask()
}

// failed answers with an error of the Store.
func (x *exchange) failed(err error) {
	p := problemOf(err)
	switch p.kind {
	case problemNotFound, problemNotCached:
		x.w.Header().Set(cacheStatusName, missStatus(err))
		x.markMode()
	case problemDegraded:
		x.w.Header().Set(cacheStatusName, degradedStatus)
		x.markMode()
	}
	x.fail(p)
}

// markMode says in the answer that Redis is not well, if so.
func (x *exchange) markMode() {
	if mode := x.mode.get(x.client, time.Now()); mode != aside.Healthy {
		x.w.Header().Set(modeHeader, mode.String())
	}
}

func (x *exchange) serveGet(ctx context.Context) {
	if !x.allow(http.MethodGet, http.MethodHead) {
		return
	}
	key, err := keyOfQuery(x.r.URL.RawQuery)
	if err != nil {
		x.fail(invalid(err))
		return
	}
	if x.keyFits(key) {
		x.read(ctx, key)
	}
}

func (x *exchange) serveKey(ctx context.Context) {
	if !x.allow(http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete) {
		return
	}
	key, err := keyOfPath(x.r.URL.EscapedPath())
	if err != nil {
		x.fail(invalid(err))
		return
	}
	if !x.keyFits(key) {
		return
	}
	known := []string{}
	if x.r.Method == http.MethodPut {
		known = []string{"ttl"}
	}
	fields, err := queryFields(x.r.URL.RawQuery, known...)
	if err != nil {
		if len(known) == 0 {
			err = fmt.Errorf("query: %s takes none here; leave %q out", x.r.Method, shortened(x.r.URL.RawQuery))
		}
		x.fail(invalid(err))
		return
	}
	switch x.r.Method {
	case http.MethodPut:
		x.put(ctx, key, fields["ttl"])
	case http.MethodDelete:
		x.remove(ctx, key)
	default:
		x.read(ctx, key)
	}
}

const keyTooLong = "has %d bytes, at most %d are allowed; use a shorter one, such as a hash of it, or raise service.max_key_bytes"

func (x *exchange) keyFits(key string) bool {
	switch {
	case key == "":
		x.fail(invalid(errors.New("key: is empty; name one")))
	case len(key) > x.o.MaxKeyBytes:
		x.fail(problem{problemKeyTooLong, fmt.Sprintf("key: "+keyTooLong, len(key), x.o.MaxKeyBytes)})
	default:
		return true
	}
	return false
}

// Headers that are the same for all values. Nobody may change them: all answers share them.
var (
	noCache      = []string{"no-cache"} // it may change at any time, and nobody tells caches on the way
	noSniff      = []string{"nosniff"}
	valuesPolicy = []string{"default-src 'none'; sandbox"}
)

// read answers GET and HEAD. It sets headers by their canonical names and without an allocation for
// each: this is the hot path.
func (x *exchange) read(ctx context.Context, key string) {
	var v proxy.Value
	err := x.work(ctx, func() (err error) {
		v, err = x.getFor(ctx, key)
		return err
	})
	if err != nil {
		x.failed(err)
		return
	}
	now := time.Now()
	tag := etag(v.Data, v.ContentType)
	h := x.w.Header()
	own := &[5]string{tag, strconv.FormatInt(age(v.At, now), 10), cacheStatus(v), strconv.Itoa(len(v.Data)), v.ContentType}
	h["Etag"], h["Age"], h[cacheStatusName] = own[0:1:1], own[1:2:2], own[2:3:3]
	h["Cache-Control"] = noCache
	x.markMode()
	requested := x.r.Header
	if list := requested.Values("If-Match"); len(list) > 0 && !matches(list, tag, false) {
		x.fail(problem{problemPrecondition, "If-Match: the value's ETag is " + tag + ", which is not among those given; ask without it, or with this one"})
		return
	}
	if list := requested.Values("If-None-Match"); len(list) > 0 && matches(list, tag, true) {
		x.answer(http.StatusNotModified)
		return
	}
	if v.ContentType == "" {
		own[4] = octets
	}
	h["Content-Type"], h["Content-Length"] = own[4:5:5], own[3:4:4]
	h["X-Content-Type-Options"], h["Content-Security-Policy"] = noSniff, valuesPolicy
	x.answer(http.StatusOK)
	if x.r.Method != http.MethodHead {
		_, _ = io.WriteString(x.w, v.Data) // the reader has gone
	}
}

func age(at, now time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	return int64(max(now.Sub(at), 0) / time.Second)
}

// cacheStatus says which tier a value is from and for how long it is fresh, in whole seconds; a
// negative number, as RFC 9211 has it, for how long it has been stale.
func cacheStatus(v proxy.Value) string {
	status := "aside; hit; detail=" + v.Source.String()
	if v.Stale {
		status += "-stale"
	}
	if v.TTL != proxy.NoExpiry || v.Stale {
		status += "; ttl=" + strconv.FormatInt(int64(v.TTL/time.Second), 10)
	}
	return status
}

// writable refuses what would make a write something else than what it says.
func (x *exchange) writable() bool {
	h := x.r.Header
	if name := conditional(h, "If-Match", "If-None-Match", "If-Unmodified-Since", "If-Modified-Since"); name != "" {
		// Redis would have to compare and write at once, and while it is away nobody can: an answer
		// that holds in one mode only is worse than none.
		x.fail(problem{problemConditional, name + ": is not supported with " + x.r.Method +
			"; leave it out, or lock in Redis itself (SET with NX through the RESP port)"})
		return false
	}
	return true
}

func (x *exchange) put(ctx context.Context, key, ttlText string) {
	if !x.writable() || !x.wholeAndPlain() {
		return
	}
	h := x.r.Header
	ttl, err := parseTTL(ttlText)
	contentType := keptType(h.Get("Content-Type"))
	switch {
	case err != nil:
	case len(contentType) > maxContentType:
		err = fmt.Errorf("Content-Type: has %d bytes, at most %d are allowed; use a shorter one", len(contentType), maxContentType)
	}
	if err != nil {
		x.fail(invalid(err))
		return
	}
	data, ok := x.body(ctx, x.o.MaxValueBytes, "raise service.max_value_bytes, or split the value")
	if !ok {
		return
	}
	if contentType != "" && !x.held.Hold(len(data)) { // it is stored as a copy, with its type
		x.noRoom()
		return
	}
	err = x.work(ctx, func() error {
		return x.store.Set(ctx, key, proxy.Value{Data: data, ContentType: contentType, TTL: x.withGrace(ttl)})
	})
	if err != nil {
		x.failed(err)
		return
	}
	x.w.Header().Set("ETag", etag(data, contentType))
	x.written()
}

// keptType is the content type that is kept with a value: none where it says no more than that
// there are bytes, or what curl --data says of whatever it sends. Then the value stands in Redis as
// it is, for others to read.
func keptType(contentType string) string {
	media, parameters, err := mime.ParseMediaType(contentType)
	if err != nil {
		return contentType
	}
	if charset, ok := parameters["charset"]; len(parameters) > 1 || len(parameters) == 1 && (!ok || !strings.EqualFold(charset, "utf-8")) {
		return contentType
	}
	switch media {
	case octets, "binary/octet-stream", "text/plain", "application/x-www-form-urlencoded":
		return ""
	}
	return contentType
}

func (x *exchange) remove(ctx context.Context, key string) {
	if !x.writable() {
		return
	}
	if err := x.work(ctx, func() error { return x.store.Del(ctx, key) }); err != nil {
		x.failed(err)
		return
	}
	x.written()
}

// written says that a write is done: 204, as nobody knows whether there was something before.
func (x *exchange) written() {
	x.w.Header().Set(cacheStatusName, writeStatus)
	x.markMode()
	x.answer(http.StatusNoContent)
}

// body is all of the request's body, at most limit bytes of it. False: it has answered.
func (x *exchange) body(ctx context.Context, limit int, remedy string) (string, bool) {
	announced := x.r.ContentLength
	if announced > int64(limit) {
		x.tooLarge(strconv.FormatInt(announced, 10), limit, remedy)
		return "", false
	}
	if err := x.bodies.Enter(ctx); err != nil {
		x.failed(fmt.Errorf("%w: %w", proxy.ErrConcurrency, err))
		return "", false
	}
	defer x.bodies.Leave()
	if deadline, ok := ctx.Deadline(); ok {
		// Otherwise a client that sends a byte now and then would keep the place; not every
		// http.ResponseWriter can.
		_ = http.NewResponseController(x.w).SetReadDeadline(deadline)
	}
	data, err := x.receive(http.MaxBytesReader(x.w, x.r.Body, int64(limit)), announced, limit)
	if err == nil {
		_ = http.NewResponseController(x.w).SetReadDeadline(time.Time{}) // else net/http would take the client for gone then
		return data, true
	}
	x.w.Header().Set("Connection", "close") // where the next request would begin is not known
	_, tooLarge := errors.AsType[*http.MaxBytesError](err)
	switch {
	case errors.Is(err, errNoRoom):
		x.noRoom()
	case tooLarge:
		x.tooLarge("more", limit, remedy)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(ctx.Err(), context.DeadlineExceeded):
		x.fail(problem{problemBodyTimeout, fmt.Sprintf("body: %d bytes have arrived within %v; send it faster, or raise service.request_timeout",
			len(data), x.o.RequestTimeout)})
	default:
		x.fail(invalid(fmt.Errorf("body: %d bytes have arrived, then: %w; send as many as Content-Length says", len(data), err)))
	}
	return "", false
}

var errNoRoom = errors.New("all requests that are being received hold as much as they may")

func (x *exchange) noRoom() {
	x.fail(problem{problemBusy, fmt.Sprintf("body: %v (%d bytes); try again, or raise service.max_receiving_bytes", errNoRoom, x.store.Receiving().Limit())})
}

// receive reads a body to its end, or returns what has arrived. Room is taken as it arrives, not on
// a Content-Length's word, and is held until the exchange ends. body has no more than limit.
func (x *exchange) receive(body io.Reader, announced int64, limit int) (string, error) {
	var data []byte
	var ended [1]byte // to be told of the end without room for more
	for {
		room := data[len(data):cap(data)]
		if len(room) == 0 && int64(len(data)) == announced {
			room = ended[:]
		}
		if len(room) == 0 {
			size := min(max(2*cap(data), 512), limit+1)
			if announced >= 0 {
				size = int(min(int64(max(8*cap(data), aFewBytes)), announced)) // what has arrived is copied, and garbage, once or twice only
			}
			if !x.held.Hold(size - cap(data)) {
				return asText(data), errNoRoom
			}
			data = append(make([]byte, 0, size), data...)
			continue
		}
		n, err := body.Read(room)
		if int64(len(data)) != announced {
			data = data[:len(data)+n]
		}
		if err == io.EOF {
			return asText(data), nil
		}
		if err != nil {
			return asText(data), err
		}
	}
}

// asText is data, which nobody changes any more, as a string: without a copy, where there is not
// much behind it that nobody needs.
func asText(data []byte) string {
	if len(data) == 0 || cap(data)-len(data) > len(data)/8 {
		return string(data)
	}
	return unsafe.String(&data[0], len(data))
}

func (x *exchange) tooLarge(size string, limit int, remedy string) {
	x.w.Header().Set("Connection", "close") // rather than read what nobody wants
	x.fail(problem{problemTooLarge, fmt.Sprintf("body: has %s bytes, at most %d are allowed; %s", size, limit, remedy)})
}

// parseTTL reads a number of seconds or a Go duration; nothing and 0 are no expiry.
func parseTTL(text string) (time.Duration, error) {
	if text == "" {
		return proxy.NoExpiry, nil
	}
	ttl, err := time.ParseDuration(text)
	seconds := ttl.Seconds()
	if n, notNumber := strconv.ParseFloat(text, 64); notNumber == nil && !math.IsNaN(n) {
		seconds, err = n, nil
		if math.Abs(n) <= proxy.LongestTTL.Seconds() {
			ttl = time.Duration(n * float64(time.Second))
		}
	}
	switch {
	case err != nil:
		return 0, fmt.Errorf("ttl: %q is neither a number of seconds nor a duration; give 90, 1m30s, or 0 for no expiry", shortened(text))
	case seconds < 0:
		return 0, fmt.Errorf("ttl: %q is negative; give 0 for no expiry, or DELETE the key", shortened(text))
	case seconds > proxy.LongestTTL.Seconds():
		return 0, fmt.Errorf("ttl: %q is longer than 100 years; give 0 for no expiry", shortened(text))
	case seconds == 0:
		return proxy.NoExpiry, nil
	case ttl < time.Millisecond:
		return 0, fmt.Errorf("ttl: %q is less than a millisecond; give at least 1ms", shortened(text))
	}
	return ttl, nil
}

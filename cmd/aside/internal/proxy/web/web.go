package web

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asideprom"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/internal/statuspage"
)

// Options says how a Server behaves. The zero value is usable: no authentication, and the defaults
// below.
type Options struct {
	// Token is what callers must have, as "Authorization: Bearer TOKEN", for everything but
	// /healthz and /readyz. Defaults to "": they need none. See Server.SetToken.
	Token string

	// MaxValueBytes is the longest body of a PUT; a longer one is answered 413. Defaults to 8 MiB.
	MaxValueBytes int

	// MaxKeyBytes is the longest key, decoded; a longer one is answered 414, or 400 in the body of
	// an mget. Defaults to 1 KiB.
	MaxKeyBytes int

	// MaxKeys is how many keys one mget may ask for; for more it is answered 400. Defaults to 1000.
	// All their values are in memory at once, so it bounds, with MaxValueBytes, what one request
	// can cost.
	MaxKeys int

	// RequestTimeout is how long a request may take from its header to the beginning of its answer,
	// waiting for its turn included. What Redis takes is bounded by aside.Options.RedisTimeout,
	// too. Defaults to 5 seconds.
	RequestTimeout time.Duration

	// Grace is how long a value that was put with a ttl outlives it: it is stale then, and served to
	// requests that take that. Defaults to 0: it does not.
	Grace time.Duration

	// Concurrent is how many requests are served at once. Further ones wait for up to
	// RequestTimeout, and are answered 503 then. Defaults to 1000.
	Concurrent int

	// MaxConnections is how many connections a listener of Limit has at once, no more than the
	// process may have files open. Defaults to 20000.
	MaxConnections int

	// Pprof serves /debug/pprof/. Defaults to false.
	Pprof bool

	// Redis names the server, and FallbackDir the directory, both for the page. Default to not
	// known.
	Redis, FallbackDir string

	// Version is shown on the page and in aside_build_info. Defaults to "unknown".
	Version string

	// Logger gets panics as errors, and requests that failed at level debug. Never a value's
	// content. Defaults to slog.Default().
	Logger *slog.Logger

	// Observer has the histograms of the client, whose Options.Observer it is, for /metrics.
	// Defaults to none.
	Observer *asideprom.Observer

	// RESP tells how many clients the other front end has right now, and how many commands it has
	// served since it began. It must be safe for concurrent use, and quick. Defaults to none.
	RESP func() (connections, commands int64)

	// RefusedLogins tells how many logins the other front end has refused since it began. It must
	// be safe for concurrent use. Defaults to none.
	RefusedLogins func() int64

	// InPart tells how many commands that list keys the other front end has answered by what is known here, as
	// Redis was away. It must be safe for concurrent use. Defaults to none.
	InPart func() int64

	// Refusals tells which commands the other front end has refused as Redis was away, the most
	// frequent first. It must be safe for concurrent use. Defaults to none.
	Refusals func() []statuspage.Refusal

	// Checked tells which commands an outage would refuse, likewise. Defaults to none.
	Checked func() []statuspage.Refusal
}

func (o Options) withDefaults() Options {
	o.MaxValueBytes = cmp.Or(max(o.MaxValueBytes, 0), 8<<20)
	o.MaxKeyBytes = cmp.Or(max(o.MaxKeyBytes, 0), 1<<10)
	o.MaxKeys = cmp.Or(max(o.MaxKeys, 0), 1000)
	o.RequestTimeout = cmp.Or(max(o.RequestTimeout, 0), 5*time.Second)
	o.Concurrent = cmp.Or(max(o.Concurrent, 0), 1000)
	o.MaxConnections = cmp.Or(max(o.MaxConnections, 0), 20000)
	o.Version = cmp.Or(o.Version, "unknown")
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// Refusal is a kind of command that was, or would be, refused as Redis is away.
type Refusal = statuspage.Refusal

// Server is the HTTP front end. Make one with [New]. Safe for concurrent use.
type Server struct {
	o       Options // immutable, as are the next ones
	store   *proxy.Store
	client  *aside.Client
	started time.Time
	token   atomic.Pointer[auth] // nil: everybody may do everything
	foreign *http.CrossOriginProtection
	turns   proxy.Gate // of requests in the Store
	bodies  proxy.Gate // of bodies being received: a slow sender keeps others from sending, not from reading
	conns   *conns
	metrics *metrics
	page    *page
	mode    modeNow
	watch   *statuspage.Watch
	hub     *hub

	draining atomic.Bool
	drilling atomic.Bool
	unwatch  func()
	closing  sync.Once
}

// New returns a Server of what store has; options that are zero or negative are set to their
// defaults. Close ends it. store's client must stay open for longer.
func New(store *proxy.Store, o Options) *Server {
	o = o.withDefaults()
	s := &Server{
		o: o, store: store, client: store.Client(), started: time.Now(), foreign: http.NewCrossOriginProtection(),
		turns: proxy.NewGate(o.Concurrent), bodies: proxy.NewGate(o.Concurrent), page: newPage(),
		conns: newConns(store.Connections(), o.MaxConnections),
	}
	s.SetToken(o.Token)
	s.watch = statuspage.New(s.client, statuspage.Options{
		Version: o.Version, Redis: o.Redis, FallbackDir: o.FallbackDir, Missed: store.Misses, Refused: store.Refused,
		DirSetting: "fallback.dir", MaxBytesSetting: "fallback.max_bytes",
	})
	s.hub = newHub(s.snapshot, s.watch.Tick, s.conns.max)
	s.metrics = newMetrics(s)
	s.mode.refresh(s.client)
	s.unwatch = s.client.OnModeChange(func(change aside.ModeChange) {
		s.mode.refresh(s.client)
		s.watch.Changed(change)
		s.hub.hurry()
	})
	s.hub.start()
	return s
}

// HTTPServer returns a server that serves s within limits that a slow or hostile client cannot
// stretch: 5 seconds (or RequestTimeout, if that is less) for a header of at most 64 KiB (more for
// a larger MaxKeyBytes), RequestTimeout more for the body, a minute more for reading the answer,
// two minutes of rest between requests. Its Shutdown ends the event streams by Close. The caller
// may change it before its first use.
func (s *Server) HTTPServer() *http.Server {
	header := min(5*time.Second, s.o.RequestTimeout)
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: header,
		ReadTimeout:       header + s.o.RequestTimeout,
		WriteTimeout:      header + s.o.RequestTimeout + time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    max(64<<10, 16<<10+3*s.o.MaxKeyBytes), // of a key each byte may be %XX
		ConnState:         connState,
		ErrorLog:          slog.NewLogLogger(s.o.Logger.Handler(), slog.LevelDebug),
	}
	server.RegisterOnShutdown(s.Close)
	return server
}

// SetToken makes token what callers must have from now on; "" lets everybody in. Event streams that
// were opened with another one end.
func (s *Server) SetToken(token string) {
	was, now := s.token.Load(), newAuth(token)
	if was == nil || now == nil || was.token != now.token {
		s.token.Store(now)
	}
}

// Drain makes /readyz say 503 from now on, so that a load balancer looks for somebody else; all
// else goes on.
func (s *Server) Drain() { s.draining.Store(true) }

// Close drains, ends the event streams and waits for them. Other requests go on. Closing twice is
// fine.
func (s *Server) Close() {
	s.closing.Do(func() {
		s.Drain()
		s.unwatch()
		s.hub.close()
	})
	s.hub.wait()
}

// ObserveRESP notes what the other front end has answered. Commands that it does not know should be
// observed, too: they count as "other".
func (s *Server) ObserveRESP(a proxy.Answered) { s.metrics.observeRESP(a) }

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{Server: s, w: w, r: r, auth: s.token.Load(), held: s.store.Receiving().Share()}
	defer x.held.End()
	defer func() {
		if p := recover(); p != nil {
			x.panicked(p)
		}
	}()
	if !x.framed() {
		return
	}
	if err := s.foreign.Check(r); err != nil {
		x.fail(problem{problemCrossOrigin, "a page of another origin has sent this (" + err.Error() +
			"); send it without a browser, or from the same origin"})
		return
	}
	if !x.ourHost() {
		return
	}
	path := r.URL.EscapedPath()
	switch {
	case path == "/get":
		x.do("get", x.serveGet)
	case strings.HasPrefix(path, keysPrefix):
		x.do(keyCommand(r.Method), x.serveKey)
	case path == "/v1/mget":
		x.do("mget", x.serveMget)
	case path == "/healthz":
		x.serveHealth()
	case path == "/readyz":
		x.serveReady()
	case path == "/":
		x.servePage()
	case path == "/events":
		x.serveEvents()
	case path == "/drill":
		x.serveDrill()
	case path == "/explain":
		x.serveExplain()
	case path == "/metrics":
		x.serveMetrics()
	case s.o.Pprof && strings.HasPrefix(path, "/debug/pprof/"):
		x.serveProfile()
	default:
		x.fallback(path)
	}
}

// fallback answers what is nothing of the above.
func (x *exchange) fallback(path string) {
	if !x.authorized() {
		return
	}
	detail := fmt.Sprintf("there is nothing at %s; values are at %s{key} and /get?key=, the status page is at /", shortened(path), keysPrefix)
	if strings.HasPrefix(path, "/debug/pprof") {
		detail = "profiles are served with Options.Pprof only (service.pprof in the configuration), at /debug/pprof/"
	}
	x.fail(problem{problemNoSuchPath, detail})
}

// exchange is one request and what becomes of it. It belongs to the goroutine that serves the
// request.
type exchange struct {
	*Server
	w      http.ResponseWriter
	r      *http.Request
	auth   *auth       // nil: everybody may do everything
	status int         // 0 as long as there is no answer
	held   proxy.Share // of Store.Receiving, for its body

	began time.Time     // zero if nobody wants to know
	took  time.Duration // until the answer began; how long it takes the client to read it is the client's
}

// answer begins the answer; headers are set before.
func (x *exchange) answer(status int) {
	x.status = status
	if !x.began.IsZero() {
		x.took = time.Since(x.began)
	}
	x.w.WriteHeader(status)
}

// allow reports whether the request's method is one of methods, and answers if it is not.
func (x *exchange) allow(methods ...string) bool {
	if slices.Contains(methods, x.r.Method) {
		return true
	}
	x.w.Header().Set("Allow", strings.Join(methods, ", "))
	x.fail(problem{problemMethod, fmt.Sprintf("method: %s is not served here; use %s", shortened(x.r.Method), strings.Join(methods, ", "))})
	return false
}

// authorized reports whether the caller has the token, and answers if not.
func (x *exchange) authorized() bool {
	if x.auth == nil || x.auth.bearer(x.r) {
		return true
	}
	x.unauthorized()
	return false
}

func (x *exchange) unauthorized() {
	x.w.Header().Set("WWW-Authenticate", `Bearer realm="aside"`)
	x.fail(problem{problemUnauthorized, "Authorization: the token is missing or wrong; send Bearer TOKEN, with service.token of the configuration"})
}

// panicked answers for a handler that did not.
func (x *exchange) panicked(p any) {
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p)
	}
	x.o.Logger.Error("aside: a request panicked", "method", x.r.Method, "panic", p, "stack", string(debug.Stack()))
	if x.status != 0 {
		panic(http.ErrAbortHandler) // the client must not take half an answer for a whole one
	}
	x.fail(problem{problemInternal, "this is a bug in the proxy; its log has the details"})
}

// modeNow is the mode as of a short time ago: Client.Health takes locks that writers need, too much
// for each request.
type modeNow struct {
	mode atomic.Int32
	at   atomic.Int64 // when it was asked for, in Unix nanoseconds
}

const modeAge = 100 * time.Millisecond

func (m *modeNow) refresh(c *aside.Client) aside.Health {
	m.at.Store(time.Now().UnixNano())
	h := c.Health()
	m.mode.Store(int32(h.Mode))
	return h
}

func (m *modeNow) get(c *aside.Client, now time.Time) aside.Mode {
	if at := m.at.Load(); now.UnixNano()-at > int64(modeAge) && m.at.CompareAndSwap(at, now.UnixNano()) {
		m.refresh(c)
	}
	return aside.Mode(m.mode.Load())
}

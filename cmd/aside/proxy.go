package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asideprom"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/cmd/aside/internal/proxy/config"
	"github.com/redaside/aside/cmd/aside/internal/proxy/resp"
	"github.com/redaside/aside/cmd/aside/internal/proxy/web"
	"github.com/redaside/aside/fallback"
)

// proxyServer is what `aside serve` runs: a client, and the front ends that serve it. Its methods
// are called one after the other.
type proxyServer struct {
	c       config.Config
	log     *slog.Logger
	options aside.Options
	measure *asideprom.Observer                     // options.Observer
	redis   string                                  // names it
	cert    *certificate                            // that is shown to clients; nil: no TLS
	shown   *certificate                            // that is shown to Redis; nil: none
	account atomic.Pointer[rueidis.AuthCredentials] // at Redis

	httpLn, respLn net.Listener // nil: off

	client *aside.Client
	web    *web.Server
	http   *http.Server
	resp   *resp.Server

	serving sync.WaitGroup
}

// envelopeRoom is what the proxy stores beside a value: a content type.
const envelopeRoom = 1 << 10

const maxValue = 512 << 20 // Redis's own limit

// newProxy takes the ports. Nothing is served before start; what connects meanwhile waits.
func newProxy(c config.Config, log *slog.Logger) (*proxyServer, error) {
	p := &proxyServer{c: c, log: log}
	redis, err := redisOption(c.Redis)
	if err != nil {
		return nil, usageError{fmt.Errorf("redis.url: %w", err)}
	}
	p.redis = redisName(redis)
	if files := c.Redis.TLS; files.Cert != "" {
		p.shown = new(certificate)
		if err := p.shown.load(files.Cert, files.Key); err != nil {
			return nil, usageError{fmt.Errorf("redis.tls: %w", err)}
		}
		p.shown.show(&redis)
	}
	p.account.Store(&rueidis.AuthCredentials{Username: redis.Username, Password: redis.Password})
	if redis.Sentinel.MasterSet == "" { // rueidis would show it to the Sentinels, too, which have accounts of their own
		redis.AuthCredentialsFn = func(rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) { return *p.account.Load(), nil }
	}
	dir, err := fallbackDir(c, p.redis, log)
	if err != nil {
		return nil, err
	}
	if dir != "" {
		if dir, err = filepath.Abs(dir); err != nil {
			return nil, fmt.Errorf("fallback.dir is %q: %w", c.Fallback.Dir, err)
		}
	}
	p.measure = asideprom.NewObserver()
	p.options = aside.Options{
		Redis:         redis,
		Observer:      p.measure,
		RedisTimeout:  c.Redis.Timeout,
		LockTTL:       max(2*time.Second, 2*c.Redis.Timeout), // nothing is loaded here; New wants it so
		MemoryBytes:   c.Cache.MaxBytes,
		MemoryKeys:    c.Cache.Capacity,
		MemoryTTL:     c.Cache.Expiry,
		DegradedTTL:   orNever(c.Cache.DegradedTTL),
		ReadBack:      c.Cache.KeepWritten,
		MaxKeyBytes:   int(c.Service.MaxKeyBytes),
		MaxValueBytes: int(min(c.Service.MaxValueBytes+envelopeRoom, maxValue)),
		FallbackDir:   dir,
		Fallback:      fallback.Options{Sync: syncs[c.Fallback.Sync], MaxBytes: c.Fallback.MaxBytes},
		ReplayRate:    orNever(c.Fallback.ReplayRate),
		StampTTL:      c.Fallback.StampTTL,
		Logger:        log,
	}
	if c.Cache.Capacity == 0 {
		p.options.MemoryBytes = -1
	}
	if c.Service.TLS.Cert != "" {
		p.cert = new(certificate)
		if err := p.cert.load(c.Service.TLS.Cert, c.Service.TLS.Key); err != nil {
			return nil, usageError{fmt.Errorf("service.tls: %w", err)}
		}
	}
	if p.httpLn, err = listen("service.port", c.Service.Bind, c.Service.Port); err != nil {
		return nil, err
	}
	if p.respLn, err = listen("service.resp_port", c.Service.Bind, c.Service.RESPPort); err != nil {
		p.closeListeners()
		return nil, err
	}
	return p, nil
}

var syncs = map[string]fallback.Sync{"always": fallback.Always, "everysec": fallback.EverySecond, "os": fallback.OS}

// orNever turns the 0 of the configuration, no limit, into the library's.
func orNever[T ~int | ~int64](n T) T {
	if n == 0 {
		return -1
	}
	return n
}

func listen(setting, bind string, port config.Port) (net.Listener, error) {
	if port == config.Off {
		return nil, nil
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(bind, strconv.Itoa(int(port))))
	if err != nil {
		return nil, fmt.Errorf("%s is %d: %w: choose another one, or find out which process has it", setting, port, err)
	}
	return ln, nil
}

func (p *proxyServer) closeListeners() {
	for _, ln := range []net.Listener{p.httpLn, p.respLn} {
		if ln != nil {
			ln.Close()
		}
	}
}

// greet tells a newcomer where it is, and what to try.
func (p *proxyServer) greet(w io.Writer) {
	fmt.Fprintf(w, "aside %s\n", version())
	scheme, curl, cli := "http", "", ""
	if p.cert != nil {
		scheme, curl, cli = "https", " --cacert CA.pem", " --tls --cacert CA.pem"
	}
	if p.c.Service.Token != "" {
		curl += ` -H "Authorization: Bearer $TOKEN"`
	}
	if p.c.Service.RESPPassword != "" {
		cli += ` -a "$PASSWORD"`
	}
	if p.httpLn != nil {
		fmt.Fprintf(w, "  HTTP   %s://%s/  (values at /v1/keys/KEY, status page at /)\n", scheme, p.httpLn.Addr())
	}
	if p.respLn != nil {
		fmt.Fprintf(w, "  RESP   %s\n", p.respLn.Addr())
	}
	fmt.Fprintf(w, "  Redis  %s\n", p.redis)
	if dir := p.options.FallbackDir; dir != "" {
		fmt.Fprintf(w, "  while Redis is away, writes are kept in %s\n", dir)
	}
	fmt.Fprintln(w, "Try:")
	if p.httpLn != nil {
		fmt.Fprintf(w, "  curl%s -X PUT --data hello %s://%s/v1/keys/greeting\n", curl, scheme, reachable(p.httpLn.Addr()))
	}
	if p.respLn != nil {
		host, port, _ := net.SplitHostPort(reachable(p.respLn.Addr())) // an address of ours has both
		at := " -p " + port
		if host != "127.0.0.1" {
			at = " -h " + host + at
		}
		fmt.Fprintf(w, "  redis-cli%s%s GET greeting\n", at, cli)
	}
	fmt.Fprintln(w)
}

// reachable is an address that this machine can connect to: not that of all interfaces.
func reachable(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return addr.String()
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(tcp.Port)) // Go listens for both versions there, whichever of them was named
}

// start opens the fallback directory and serves. failed gets the error of a front end that has
// ended by itself.
func (p *proxyServer) start() (failed <-chan error, err error) {
	if p.client, err = aside.New(p.options); err != nil {
		p.closeListeners()
		return nil, err
	}
	store := proxy.NewStore(p.client, p.c.Service.Concurrency)
	s := p.c.Service
	store.Strict(resp.Matcher(s.StrictKeys))
	store.LimitReceiving(max(s.MaxReceiving, 2*s.MaxValueBytes))
	var respStats atomic.Pointer[resp.Server]
	p.web = web.New(store, web.Options{
		Token: s.Token, MaxValueBytes: int(s.MaxValueBytes), MaxKeyBytes: int(s.MaxKeyBytes), MaxKeys: s.MaxKeys,
		RequestTimeout: s.RequestTimeout, Grace: p.c.Cache.Grace, Concurrent: s.MaxRequests, MaxConnections: s.MaxHTTPConnections, Pprof: s.Pprof, Version: version(), Logger: p.log,
		Redis: p.redis, FallbackDir: p.options.FallbackDir, Observer: p.measure,
		RESP: func() (connections, commands int64) {
			server := respStats.Load()
			if server == nil {
				return 0, 0
			}
			stats := server.Stats()
			return int64(stats.Connected), stats.Commands
		},
		InPart: func() int64 {
			if server := respStats.Load(); server != nil {
				return server.Stats().InPart
			}
			return 0
		},
		RefusedLogins: func() int64 {
			if server := respStats.Load(); server != nil {
				return server.Stats().RefusedLogins
			}
			return 0
		},
		Refusals: func() []web.Refusal {
			if server := respStats.Load(); server != nil {
				return refusalsOf(server.Refusals(), false)
			}
			return nil
		},
		Checked: func() []web.Refusal {
			if server := respStats.Load(); server != nil {
				return refusalsOf(server.Checked(), true)
			}
			return nil
		},
	})
	ends := make(chan error, 2)
	if p.httpLn != nil {
		p.http = p.web.HTTPServer()
		if p.cert != nil {
			p.http.TLSConfig = p.cert.tls()
		}
		p.serving.Go(func() { // ends with Shutdown
			serve := p.http.Serve
			if p.cert != nil {
				serve = func(ln net.Listener) error { return p.http.ServeTLS(ln, "", "") }
			}
			if err := serve(p.web.Limit(p.httpLn)); !errors.Is(err, http.ErrServerClosed) {
				ends <- fmt.Errorf("HTTP is not served any more: %w", err)
			}
		})
	}
	if p.respLn != nil {
		options := resp.Options{
			Password: s.RESPPassword, MaxValueBytes: int(s.MaxValueBytes), MaxKeyBytes: int(s.MaxKeyBytes), MaxConnections: web.ShareOfFiles(store.Connections(), s.MaxConnections),
			IdleTimeout: s.IdleTimeout, RequestTimeout: s.RequestTimeout, Logger: p.log, DB: p.options.Redis.SelectDB, Observe: p.web.ObserveRESP,
			Redis: &p.options.Redis, Deny: s.Deny, CheckApp: s.CheckApp, LocalAnswers: s.KeptAnswers == "local", KnownKeys: s.OutageKeys == "known", Collections: s.OutageCollections == "on",
		}
		if p.cert != nil {
			options.TLS = p.cert.tls()
		}
		p.resp = resp.New(store, options)
		respStats.Store(p.resp)
		p.serving.Go(func() { // ends with Shutdown
			if err := p.resp.Serve(p.respLn); err != nil {
				ends <- fmt.Errorf("RESP is not served any more: %w", err)
			}
		})
	}
	attrs := []any{"version", version(), "redis", p.redis, "mode", p.client.Health().Mode.String()}
	if p.httpLn != nil {
		attrs = append(attrs, "http", p.httpLn.Addr().String())
	}
	if p.respLn != nil {
		attrs = append(attrs, "resp", p.respLn.Addr().String())
	}
	if dir := p.options.FallbackDir; dir != "" {
		attrs = append(attrs, "fallbackDir", dir, "pending", p.client.Stats().Pending)
	}
	p.log.Info("aside: serving", attrs...)
	return ends, nil
}

// refusalsOf is what the page shows of all; of would-be ones it says what becomes of them.
func refusalsOf(all []resp.Refusal, wouldBe bool) (shown []web.Refusal) {
	for _, r := range all {
		one := web.Refusal{Command: r.Command, Client: r.Client, Count: r.Count, Last: r.Last.UTC(), Example: r.Example}
		if wouldBe {
			one.Outage = r.Outage.String()
		}
		shown = append(shown, one)
	}
	return shown
}

// tellChecked tells what an outage would have refused: as a table, which write gets, or in the log, if that
// is read by programs.
func (p *proxyServer) tellChecked(write func(table []byte)) {
	if !p.c.Service.CheckApp || p.resp == nil {
		return
	}
	all := p.resp.Checked()
	if p.c.Log.Format != "text" && p.c.Log.Stdout {
		for _, r := range all {
			p.log.Info("aside: what an outage would have done", "command", r.Command, "client", r.Client, "outage", r.Outage.String(), "times", r.Count, "example", r.Example)
		}
		return
	}
	var w bytes.Buffer
	defer func() { write(w.Bytes()) }()
	if len(all) == 0 {
		fmt.Fprintln(&w, "An outage would have refused nothing of what clients have sent.")
		return
	}
	fmt.Fprintln(&w, "What an outage would have done to the commands that clients have sent:")
	table := tabwriter.NewWriter(&w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "  times\tcommand\tclient\tin an outage\tsuch as")
	for _, r := range all {
		fmt.Fprintf(table, "  %d\t%s\t%s\t%s\t%s\n", r.Count, strings.ReplaceAll(r.Command, "|", " "), cmp.Or(r.Client, "-"), r.Outage, r.Example)
	}
	_ = table.Flush() // into memory
	fmt.Fprintln(&w, "Everything else would have been answered, or kept and replayed. docs/PROXY.md says what is known and kept.")
}

// renew takes over from c what can be exchanged while the proxy serves, and returns the names of
// these settings. A secret may be exchanged for another, not taken away: whether it may be missing
// was asked of the interface that is being served, which c may not name any more.
func (p *proxyServer) renew(c config.Config) (done []string) {
	if c.Service.Token != "" {
		p.web.SetToken(c.Service.Token)
		done = append(done, "service.token")
	}
	if c.Service.RESPPassword != "" && p.resp != nil {
		p.resp.SetPassword(c.Service.RESPPassword)
		done = append(done, "service.resp_password")
	}
	was := p.c.Redis
	redis, err := redisOption(c.Redis)
	// Nothing that is meant for another Redis is shown to this one.
	same := err == nil && c.Redis.URL == was.URL && slices.Equal(c.Redis.Addrs, was.Addrs) && c.Redis.TLS.CA == was.TLS.CA
	if same && redis.Sentinel.MasterSet == "" && (redis.Password != "" || p.account.Load().Password == "") {
		p.account.Store(&rueidis.AuthCredentials{Username: redis.Username, Password: redis.Password})
		done = append(done, "redis.username", "redis.password")
	}
	return done
}

// stop drains: /readyz says 503, then, after service.drain_delay, no connection is accepted any
// more, requests under way end, and last the client makes durable what it has accepted. ctx, and
// service.drain_timeout, end the waiting; nothing that was acknowledged is lost by that. The error
// is the client's: that something may not be as durable as it should be.
func (p *proxyServer) stop(ctx context.Context) error {
	p.web.Drain()
	if delay := p.c.Service.DrainDelay; delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
	ctx, cancel := context.WithTimeout(ctx, p.c.Service.DrainTimeout)
	defer cancel()
	var wait sync.WaitGroup
	var httpErr, respErr error
	if p.http != nil {
		wait.Go(func() {
			if httpErr = p.http.Shutdown(ctx); httpErr != nil {
				_ = p.http.Close() // the connections are given up
			}
		})
	}
	if p.resp != nil {
		wait.Go(func() { respErr = p.resp.Shutdown(ctx) })
	}
	wait.Wait()
	p.serving.Wait()
	p.web.Close()
	if err := errors.Join(httpErr, respErr); err != nil {
		p.log.Warn("aside: requests were cut off, as draining took too long", "error", err)
	}
	pending := p.client.Stats().Pending
	err := p.client.Close()
	if slowDisk(err) {
		p.log.Warn("aside: the fallback directory was left to the next process to tidy up", "error", err)
		err = nil
	}
	if err == nil {
		p.log.Info("aside: stopped", "pending", pending)
	}
	return err
}

// slowDisk reports whether a client's Close has only run out of time: then the journal has what was
// acknowledged, and the rest is what the next process with the directory does anyway.
func slowDisk(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, fallback.ErrDisk)
}

// certificate is a TLS certificate that can be exchanged while it is used. Safe for concurrent use.
type certificate struct {
	now atomic.Pointer[tls.Certificate]
}

func (c *certificate) load(certFile, keyFile string) error {
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return err
	}
	c.now.Store(&cert)
	return nil
}

// show has it shown to Redis, if Redis asks for one.
func (c *certificate) show(option *rueidis.ClientOption) {
	option.TLSConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.now.Load(), nil }
}

func (c *certificate) tls() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.now.Load(), nil },
	}
}

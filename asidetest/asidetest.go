// Package asidetest has clients for the tests of a service that uses aside, and a server for them
// that lives in the test: no port, no process, no container.
//
//	func TestAChangeIsSeen(t *testing.T) {
//		service := New(asidetest.New(t), &database{})
//		…
//	}
//
// Several clients of one server stand for several processes, and the server can go away:
//
//	server := asidetest.NewServer(t)
//	one, two := server.Client(), server.Client()
//	server.Down()
//	…
//	server.Up()
//
// Within [testing/synctest] all goes by the clock of the bubble: an outage, a replay or the end of
// a ttl takes no time. Make the server, and all that uses it, inside the bubble.
//
// The server is a fake. It does what aside asks of a Redis, as Redis does it: pushes, expiry, and
// each script of aside, written in Go. A test of aside itself compares it with real servers. It
// knows the plain commands of strings and keys, and some of hashes, lists and sets, but no Lua, no
// transactions, no PUBLISH, one database, and neither Sentinel nor Cluster.
package asidetest

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/fakeredis"
)

// New makes a client on a server of its own. It is closed when the test ends. See [Server.Client]
// for its options.
func New(t testing.TB, change ...func(*aside.Options)) *aside.Client {
	t.Helper()
	return NewServer(t).Client(change...)
}

// Server is a Redis that lives in the test. Make one with [NewServer]. It is up, and empty. Safe for
// concurrent use.
type Server struct {
	t    testing.TB
	fake *fakeredis.Server

	mu     sync.Mutex // guards what follows
	loads  map[string]int
	stores []*store
}

// NewServer makes a server. It ends with the test, after its clients.
func NewServer(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, fake: fakeredis.New(), loads: make(map[string]int)}
	t.Cleanup(s.fake.Close)
	return s
}

// Client makes a client of the server, which stands for one process, and closes it when the test
// ends; an error of New or Close fails the test. Its options are those of production, but for
// these, which change may change again:
//
//   - StoreFirst is set, so that a test may look into the server as soon as a Get returns;
//   - Logger discards;
//   - where neither FallbackDir nor Store is set, what is written while the server is away is kept
//     in memory, and Set and Del return nil as with a FallbackDir. It ends with the client: a test
//     of a process that is started again sets FallbackDir to the same folder twice.
//
// Outside of testing/synctest it takes a tenth of a second, see [aside.New].
func (s *Server) Client(change ...func(*aside.Options)) *aside.Client {
	s.t.Helper()
	o := aside.Options{StoreFirst: true, Logger: slog.New(slog.DiscardHandler)}
	o.Redis = rueidis.ClientOption{InitAddress: []string{"asidetest"}, ForceSingleClient: true}
	o.Redis.DialCtxFn = func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) { return s.fake.Dial() }
	for _, c := range change {
		c(&o)
	}
	kept, err := openStore(&o)
	if err != nil {
		s.t.Fatalf("asidetest: %v", err)
	}
	o.Store, o.FallbackDir = kept, ""
	o.Observer = counted(o.Observer, s)
	client, err := aside.New(o)
	if err != nil {
		if closing := kept.Close(context.Background()); closing != nil {
			s.t.Logf("asidetest: %v", closing)
		}
		s.t.Fatalf("asidetest: %v", err)
	}
	s.mu.Lock()
	s.stores = append(s.stores, kept)
	s.mu.Unlock()
	s.t.Cleanup(func() {
		if err := client.Close(); err != nil {
			s.t.Errorf("asidetest: %v", err)
		}
	})
	return client
}

// Down is as if the network to the server had failed: connections break, and new ones are refused,
// until Up. What the server holds stays.
func (s *Server) Down() { s.fake.Down() }

// Freeze has the server take connections and commands and answer none, until Up; then it does what
// was sent meanwhile.
func (s *Server) Freeze() { s.fake.Freeze() }

// Up ends Down and Freeze. Clients notice within a second or two; [aside.Client.Health] tells.
func (s *Server) Up() { s.fake.Up() }

// Restart is as if the server's process had ended and another one begun, which has nothing on disk:
// connections break, and all that the server held is gone. Then it is up.
func (s *Server) Restart() { s.fake.Restart() }

// FlushAll removes all that the server holds, and clients are told, as by FLUSHALL.
func (s *Server) FlushAll() {
	s.t.Helper()
	s.Do("FLUSHALL")
}

// Do does a command as redis-cli would, also while the server is down or frozen, and returns the
// answer: a string, an int64, nil, or an []any of these. An error that the server answers fails the
// test.
func (s *Server) Do(args ...any) any {
	s.t.Helper()
	if len(args) == 0 {
		s.t.Fatalf("asidetest: Do needs a command")
	}
	texts := make([]string, len(args))
	for i, arg := range args {
		if b, ok := arg.([]byte); ok {
			texts[i] = string(b)
		} else {
			texts[i] = fmt.Sprint(arg)
		}
	}
	answer, err := s.fake.Do(texts...)
	if err != nil {
		s.t.Fatalf("asidetest: %.200q: %v", texts, err)
	}
	return answer
}

// Get returns the bytes that a key holds; false if it holds nothing. Those of a key that is being
// loaded are a lock of aside's.
func (s *Server) Get(key string) (value string, ok bool) {
	s.t.Helper()
	value, ok = s.Do("GET", key).(string)
	return value, ok
}

// Set writes a key as another program would, for a ttl, 0: without an end. Clients are told that it
// has changed.
func (s *Server) Set(key, value string, ttl time.Duration) {
	s.t.Helper()
	if ttl == 0 {
		s.Do("SET", key, value)
		return
	}
	s.Do("SET", key, value, "PX", ttl.Milliseconds())
}

// Del removes keys as another program would, and returns how many there were. Clients are told that
// they have changed.
func (s *Server) Del(keys ...string) int {
	s.t.Helper()
	args := []any{"DEL"}
	for _, key := range keys {
		args = append(args, key)
	}
	if len(keys) == 0 {
		return 0
	}
	return int(s.Do(args...).(int64))
}

// TTL returns how long a key has to live: 0 if it does not end; false if there is no such key.
func (s *Server) TTL(key string) (ttl time.Duration, ok bool) {
	s.t.Helper()
	ms := s.Do("PTTL", key).(int64)
	return time.Duration(max(ms, 0)) * time.Millisecond, ms != -2
}

// Keys returns all keys in order, but for those that aside uses itself, which begin with "aside:".
func (s *Server) Keys() (keys []string) {
	s.t.Helper()
	for _, key := range s.Do("KEYS", "*").([]any) {
		if key := key.(string); !strings.HasPrefix(key, "aside:") {
			keys = append(keys, key)
		}
	}
	return keys
}

// Loads returns how often loaders of the server's clients have run for a key. A batch counts for
// the first of the keys that its loader was given.
func (s *Server) Loads(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loads[key]
}

// Records returns what the server's clients keep to replay once it is back: Sets, Dels and operations, by key.
func (s *Server) Records() (records []fallback.Record) {
	s.mu.Lock()
	stores := slices.Clone(s.stores)
	s.mu.Unlock()
	for _, kept := range stores {
		for _, op := range []fallback.Op{fallback.OpSet, fallback.OpDel, fallback.OpOperations} {
			records = slices.AppendSeq(records, kept.Records(op))
		}
	}
	slices.SortStableFunc(records, func(a, b fallback.Record) int { return strings.Compare(a.Key, b.Key) })
	return records
}

// counting counts loads for the server, and tells the user's own observer.
type counting struct {
	user aside.Observer // nil: there is none
	s    *Server
}

func (c counting) Observe(ctx context.Context, e aside.Event) {
	if e.Kind == aside.EventLoad {
		c.s.mu.Lock()
		c.s.loads[e.Key]++
		c.s.mu.Unlock()
	}
	if c.user != nil {
		c.user.Observe(ctx, e)
	}
}

// tracing is counting for a Tracer.
type tracing struct {
	counting
	aside.Tracer
}

func (t tracing) Observe(ctx context.Context, e aside.Event) { t.counting.Observe(ctx, e) }

// counted returns what counts loads, and is a Tracer if the user's own observer is one.
func counted(user aside.Observer, s *Server) aside.Observer {
	c := counting{user, s}
	if tracer, ok := user.(aside.Tracer); ok {
		return tracing{c, tracer}
	}
	return c
}

// store is what a client keeps its writes in.
type store struct {
	fallback.Store
	inMemory bool
}

// openStore opens what the options say, as aside.New does.
func openStore(o *aside.Options) (*store, error) {
	switch {
	case o.Store != nil && o.FallbackDir != "":
		return nil, fmt.Errorf("Options.Store and Options.FallbackDir (%q) are set: leave one out", o.FallbackDir)
	case o.Store != nil:
		return &store{Store: o.Store}, nil
	case o.FallbackDir == "":
		return &store{fallback.NewMemory(o.Fallback.MaxBytes), true}, nil
	}
	options := o.Fallback
	options.DB, options.Logger = o.Redis.SelectDB, o.Logger
	opened, err := fallback.Open(o.FallbackDir, options)
	if err != nil {
		return nil, fmt.Errorf("Options.FallbackDir: %w", err)
	}
	return &store{Store: opened}, nil
}

// Durable says that a store in memory stands for a folder.
func (s *store) Durable() bool { return s.inMemory || s.Store.Durable() }

// Close does not count what it forgets as lost: a folder would have it.
func (s *store) Close(ctx context.Context) error {
	err := s.Store.Close(ctx)
	if s.inMemory {
		return nil
	}
	return err
}

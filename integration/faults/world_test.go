package faults_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/harness"
	"github.com/redaside/aside/internal/redistest"
)

// world is the servers of a row and the way to them.
type world struct {
	t     testing.TB
	truth *truth

	server   *redistest.Server   // what goes away: in a cluster one node, with Sentinel the first primary
	cluster  *redistest.Cluster  // nil if it is none
	sentinel *redistest.Sentinel // likewise
	proxy    *faultproxy.Proxy   // before the clients that suffer; nil: they are connected directly

	undo []func() // what heal has to wait for or to end, latest last
}

// single is a server by itself, with the clients behind a proxy or not.
func single(behindProxy bool, args ...string) func(*world) {
	return func(w *world) {
		w.server = redistest.Start(w.t, redistest.WithArgs(args...))
		if behindProxy {
			w.proxy = faultproxy.New(w.t, w.server.Addr())
			// What no caller sends: handshakes, and the prober's commands (its DEL is of a key that
			// does not exist; ours are scripts).
			w.proxy.Ignore("PING", "TIME", "HELLO", "CLIENT", "INFO", "CONFIG", "DEL")
		}
	}
}

func clustered(options ...redistest.Option) func(*world) {
	return func(w *world) {
		w.cluster = redistest.StartCluster(w.t, options...)
		w.server = w.cluster.Node(deadNode)
	}
}

// deadNode is the node of a cluster that goes away. It has a third of the slots.
const deadNode = 1

func watched(w *world) {
	w.sentinel = redistest.StartSentinel(w.t)
	w.server = w.sentinel.Primary()
}

// through is how the clients connect that are to suffer, direct how those that look on do.
func (w *world) through() rueidis.ClientOption {
	o := w.direct()
	if w.proxy != nil {
		o.InitAddress = []string{w.proxy.Addr()}
	}
	return o
}

func (w *world) direct() (o rueidis.ClientOption) {
	switch {
	case w.cluster != nil:
		o.InitAddress = w.cluster.Addrs()
	case w.sentinel != nil:
		o.InitAddress = w.sentinel.Addrs()
		o.Sentinel.MasterSet = w.sentinel.MasterSet()
	default:
		o.InitAddress = []string{w.server.Addr()}
	}
	return o
}

// concerns reports whether a key is on what goes away.
func (w *world) concerns(key string) bool {
	const slots, nodes = 16384, 3
	slot := redistest.Slot(key)
	return w.cluster == nil || slot >= deadNode*slots/nodes && slot < (deadNode+1)*slots/nodes
}

// shard is the name of what goes away, as aside has it.
func (w *world) shard() string {
	if w.cluster == nil {
		return ""
	}
	return w.server.Addr()
}

// kill ends the server as kill -9 does, and without the SAVE with which redistest's Kill begins.
func (w *world) kill() {
	w.t.Helper()
	info := fmt.Sprint(w.server.Do("INFO", "server"))
	_, pid, _ := strings.Cut(info, "process_id:")
	pid, _, _ = strings.Cut(pid, "\r\n")
	number, err := strconv.Atoi(pid)
	if err == nil {
		err = syscall.Kill(number, syscall.SIGKILL)
	}
	if err != nil {
		w.t.Fatalf("kill -9 %s: %v", pid, err)
	}
	w.server.Kill() // waits until it has ended
}

// awaitAnswer waits until the server, and not the way to it, does what it is asked.
func (w *world) awaitAnswer() {
	w.t.Helper()
	key := "aside-faults"
	for i := 0; !w.concerns(key); i++ {
		key = fmt.Sprint("aside-faults-", i)
	}
	eventually(w.t, "the server answers", func() bool {
		_, err := w.server.TryDo("DEL", key)
		return err == nil
	})
}

// party is a client and what is noted of it.
type party struct {
	*aside.Client
	dir string
	log *harness.Buffer // what its client logs, for when a test fails

	store *recorder // nil: it has one of its own

	mu      sync.Mutex // guards all below
	changes []aside.ModeChange
	asked   []request // without an answer
}

// recorder is the store of a client of which is to be known what went to the journal, and how long
// that took.
type recorder struct {
	*fallback.Dir
	truth *truth

	mu   sync.Mutex // guards puts
	puts []span
}

type span struct{ began, took time.Duration }

// Put is called before the call that writes returns, and in its goroutine.
func (r *recorder) Put(ctx context.Context, records ...fallback.Record) error {
	began := r.truth.now()
	err := r.Dir.Put(ctx, records...)
	took := r.truth.now() - began
	r.mu.Lock()
	r.puts = append(r.puts, span{began, took})
	r.mu.Unlock()
	if err == nil {
		for i := range records {
			r.truth.fact(records[i].Key).journaled.Store(&records[i].Stamp)
		}
	}
	return err
}

// longest is how long a Put took that was under way between two times.
func (r *recorder) longest(from, to time.Duration) (most time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.puts {
		if s.began < to && s.began+s.took > from {
			most = max(most, s.took)
		}
	}
	return most
}

// request is one that a caller sent to Redis, and that was not answered.
type request struct {
	shard        string
	began, ended time.Time
	err          error
}

// join makes a client. tr is told which writes went to the journal, if it is not nil.
func (w *world) join(option rueidis.ClientOption, tr *truth, change ...func(*aside.Options)) *party {
	w.t.Helper()
	p := &party{dir: filepath.Join(w.t.TempDir(), "fallback"), log: new(harness.Buffer)}
	options := aside.Options{
		Redis: option, ConnectTimeout: patience, FallbackDir: p.dir,
		Logger: slog.New(slog.NewTextHandler(p.log, nil)),
		Observer: aside.ObserverFunc(func(_ context.Context, e aside.Event) {
			if e.Kind == aside.EventRedisError {
				p.noteQuestion(e)
			}
		}),
	}
	for _, c := range change {
		c(&options)
	}
	if tr != nil {
		dir, err := fallback.Open(p.dir, fallback.Options{Logger: options.Logger})
		if err != nil {
			w.t.Fatal(err)
		}
		p.store = &recorder{Dir: dir, truth: tr}
		options.FallbackDir, options.Store = "", p.store
	}
	var err error
	if p.Client, err = aside.New(options); err != nil {
		w.t.Fatal(err)
	}
	p.awaitRecovery(w.t)
	remove := p.OnModeChange(func(m aside.ModeChange) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.changes = append(p.changes, m)
	})
	w.t.Cleanup(func() {
		remove()
		p.close(w.t)
		if w.t.Failed() {
			w.t.Logf("what the client in %s said:\n%s", p.dir, p.log)
		}
	})
	return p
}

// close ends the client. The disk may be busy with other things, so it first waits until there is
// nothing left to write or to remove.
func (p *party) close(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(patience); !p.isEmpty(t) && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// isEmpty says that p is well and keeps nothing, not even of what was loaded.
func (p *party) isEmpty(t testing.TB) bool {
	f := p.Health().Fallback
	return p.isWell() && f.Fills == 0 && (!p.Health().Durable || len(files(t, p.dir)) == 0)
}

func (p *party) noteQuestion(e aside.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, request{e.Key, e.At.Add(-e.Duration), e.At, e.Err})
}

// isWell says that p is healthy and nothing waits to be replayed.
func (p *party) isWell() bool { return p.Health().Mode == aside.Healthy && p.Stats().Pending == 0 }

// awaitRecovery waits until p is well.
func (p *party) awaitRecovery(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if p.isWell() {
			return
		}
		if time.Now().After(end) {
			health, stats := p.Health(), p.Stats()
			t.Fatalf("it does not recover: it is %v since %v (%v), %d records are pending, its last replay was: %v, its changes: %v",
				health.Mode, time.Since(health.Since), health.Err, stats.Pending, health.Replay.Report, p.modes())
		}
	}
}

func (p *party) modes() []aside.ModeChange {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.changes)
}

func (p *party) requests() []request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// firstTo is when a shard first changed to a mode at or after a time; false: it did not.
func firstTo(changes []aside.ModeChange, shard string, mode aside.Mode, from time.Time) (time.Time, bool) {
	for _, m := range changes {
		if m.Shard == shard && m.To == mode && !m.At.Before(from) {
			return m.At, true
		}
	}
	return time.Time{}, false
}

// announced waits until p has been told of all changes, and returns them. They have to be lawful:
// each to begin where the last one of its shard ended, to be one that the machine has, and to end
// in health, unless the shard has left the cluster.
func (p *party) announced(t testing.TB) (changes []aside.ModeChange) {
	t.Helper()
	next := map[aside.Mode][]aside.Mode{
		aside.Healthy: {aside.Degraded}, aside.Degraded: {aside.Recovering, aside.Healthy}, aside.Recovering: {aside.Degraded, aside.Healthy},
	}
	last := map[string]aside.ModeChange{}
	eventually(t, "the last change is announced", func() bool {
		changes = p.modes()
		for _, m := range changes {
			last[m.Shard] = m
		}
		for _, sh := range p.Health().Shards {
			if last[sh.Addr].To != sh.Mode || sh.Mode != aside.Healthy {
				return false
			}
		}
		return true
	})
	clear(last)
	for _, m := range changes {
		was, known := last[m.Shard]
		if !known { // healthy when the row began, or one that has joined the cluster since
			was.To = m.From
		}
		if m.From != was.To || !slices.Contains(next[m.From], m.To) || (m.To == aside.Degraded) != (m.Err != nil) || m.At.Before(was.At) {
			t.Errorf("shard %q was %v, then went from %v to %v (%v)", m.Shard, was.To, m.From, m.To, m.Err)
		}
		last[m.Shard] = m
	}
	return changes
}

// dataFile is where a server of our own keeps its RDB.
func dataFile(s *redistest.Server) string {
	setting := func(name string) string { return fmt.Sprint(s.Do("CONFIG", "GET", name).([]any)[1]) }
	return filepath.Join(setting("dir"), setting("dbfilename"))
}

func copyFile(t testing.TB, to, from string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

package crash

import (
	"bufio"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/redaside/aside/fallback/journal"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

var (
	killsFlag = flag.Int("kills", 200, "how often the writer is killed, all in all")
	seedFlag  = flag.Uint64("seed", 0, "of the schedule of faults and kills; 0: a new one. What happens in between is up to real time.")
)

func TestMain(m *testing.M) {
	switch os.Getenv(childRole) {
	case "":
	case operatorRole:
		os.Exit(runOperator())
	default:
		os.Exit(runWriter())
	}
	goleak.VerifyTestMain(m)
}

const (
	patience = time.Minute // for what has to happen; it proves nothing about speed
	perCheck = 8           // kills between two comparisons with Redis
)

// Promise 5. The modes of the journal differ in what a loss of power costs; kill -9 costs none of
// them anything.
func TestWhatWasAcknowledgedSurvivesKill9(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	if testing.Short() {
		t.Skip("it needs a Redis server")
	}
	modes := []journal.Sync{journal.Always, journal.EverySecond, journal.OS}
	t.Logf("-seed=%d -kills=%d", seed, *killsFlag)
	began := time.Now()
	var mu sync.Mutex
	var total tally // guarded by mu
	t.Run("modes", func(t *testing.T) {
		for i, mode := range modes {
			t.Run([...]string{"Always", "EverySecond", "OS"}[mode], func(t *testing.T) {
				if redistest.Backend() != "external" { // of which there is one
					t.Parallel()
				}
				h := newHunt(t, rand.New(rand.NewPCG(seed, uint64(i))), mode)
				defer func() {
					mu.Lock()
					defer mu.Unlock()
					total.add(h.tally)
				}()
				h.run((*killsFlag + len(modes) - 1) / len(modes))
				t.Log(&h.tally)
			})
		}
	})
	t.Logf("%v, in %v", &total, time.Since(began).Round(time.Second))
	if !t.Failed() {
		require.GreaterOrEqual(t, total.kills, *killsFlag)
		require.Positive(t, total.acknowledged)
		require.Positive(t, total.unanswered, "the kills hit nothing")
	}
}

// tally is what was done.
type tally struct {
	kills, opening, settling, closed                                int // of lives
	begun, acknowledged, failed, unanswered, reads, compared, wrong int
}

func (t *tally) add(o tally) {
	t.kills, t.opening, t.settling, t.closed = t.kills+o.kills, t.opening+o.opening, t.settling+o.settling, t.closed+o.closed
	t.begun, t.acknowledged, t.failed, t.unanswered = t.begun+o.begun, t.acknowledged+o.acknowledged, t.failed+o.failed, t.unanswered+o.unanswered
	t.reads, t.compared, t.wrong = t.reads+o.reads, t.compared+o.compared, t.wrong+o.wrong
}

func (t *tally) String() string {
	return fmt.Sprintf("%d kills (%d while it opened, %d while it settled) and %d closed; %d operations begun, %d acknowledged, %d failed, %d unanswered; %d reads and %d keys compared: %d wrong",
		t.kills, t.opening, t.settling, t.closed, t.begun, t.acknowledged, t.failed, t.unanswered, t.reads, t.compared, t.wrong)
}

// hunt is one directory, its Redis, and the writers that live on it one after the other. Used by
// one goroutine.
type hunt struct {
	t      *testing.T
	rng    *rand.Rand
	sync   journal.Sync
	server *redistest.Server
	proxy  *faultproxy.Proxy
	dir    string
	lives  int
	frozen bool
	role   string            // of the children; "": writers
	hears  func(line string) // what is made of a line; nil: heard does

	byKey map[string]*history
	ops   map[string][]string // of what was begun and not answered: its keys
	tally tally
}

func newHunt(t *testing.T, rng *rand.Rand, mode journal.Sync) *hunt {
	server := redistest.Start(t)
	h := &hunt{
		t: t, rng: rng, sync: mode, server: server, proxy: faultproxy.New(t, server.Addr()), dir: filepath.Join(t.TempDir(), "fallback"),
		byKey: make(map[string]*history), ops: make(map[string][]string),
	}
	for n := range keys {
		h.byKey[keyName(n)] = &history{}
	}
	return h
}

func (h *hunt) run(kills int) {
	for h.tally.kills < kills {
		settle := h.lives%perCheck == perCheck-1
		h.plan()()
		w := h.start()
		next := h.plan()
		switch {
		case settle:
			h.live(w, time.Duration(h.rng.IntN(100))*time.Millisecond)
			h.heal()
			if h.rng.IntN(3) == 0 { // this one does not get that far
				w.tell("settle")
				h.live(w, time.Duration(h.rng.IntN(1500))*time.Millisecond)
				h.tally.settling++
				h.kill(w)
				w = h.start()
			}
			h.settle(w)
			if h.rng.IntN(2) == 0 {
				h.close(w)
				continue
			}
			h.live(w, time.Duration(h.rng.IntN(100))*time.Millisecond)
		case h.rng.IntN(6) == 0: // while it opens
			h.live(w, time.Duration(h.rng.IntN(150))*time.Millisecond)
		case h.rng.IntN(2) == 0:
			h.await(w, "open")
			h.live(w, time.Duration(h.rng.IntN(200))*time.Millisecond)
		default: // Redis goes or comes meanwhile
			h.await(w, "open")
			h.live(w, time.Duration(h.rng.IntN(120))*time.Millisecond)
			next()
			h.live(w, time.Duration(h.rng.IntN(200))*time.Millisecond)
		}
		h.kill(w)
	}
	h.heal()
	w := h.start()
	h.settle(w)
	h.close(w)
}

// plan draws what becomes of Redis next, and returns what does it.
func (h *hunt) plan() func() {
	switch draw := h.rng.IntN(10); {
	case draw < 4:
		return h.heal
	case draw < 5:
		return func() { h.heal(); h.proxy.Refuse() }
	case draw < 6:
		return func() { h.heal(); h.proxy.BlackHole() }
	case draw < 7:
		return func() { h.heal(); h.proxy.CutRequests() }
	case draw < 8:
		return func() { h.heal(); h.proxy.CutReplies() }
	case draw < 9:
		return func() {
			h.heal()
			h.frozen = true
			h.server.Freeze()
		}
	default:
		return func() { // it has all its data, but is another server
			h.heal()
			if !h.server.CanSignal() {
				return
			}
			h.proxy.Refuse() // so that nothing is acknowledged that it will not have
			h.server.RestartKeepingData()
			h.proxy.Heal()
		}
	}
}

func (h *hunt) heal() {
	if h.frozen {
		h.server.Thaw()
		h.frozen = false
	}
	if h.rng.IntN(2) == 0 {
		h.proxy.Heal() // what dead writers have sent arrives now
	} else {
		h.proxy.HealDropping()
	}
}

// child is a writer as its parent sees it.
type child struct {
	life
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string // closed when it has ended
	open  bool
}

func (h *hunt) start() *child {
	h.t.Helper()
	h.lives++
	l := life{
		number: h.lives, seed: h.rng.Uint64N(1 << 62), addr: h.proxy.Addr(), dir: h.dir, sync: h.sync,
		flush: []time.Duration{5 * time.Millisecond, 30 * time.Millisecond, 3 * time.Second}[h.rng.IntN(3)],
		queue: []int{10, 1000}[h.rng.IntN(2)],
		rate:  []int{-1, 5000, 500}[h.rng.IntN(3)],
		pause: []time.Duration{0, 200 * time.Microsecond, 2 * time.Millisecond}[h.rng.IntN(3)],
	}
	self, err := os.Executable()
	require.NoError(h.t, err)
	w := &child{life: l, cmd: exec.Command(self), lines: make(chan string, 1<<16)}
	w.cmd.Env = append(os.Environ(), childRole+"="+cmp.Or(h.role, "1"), childLife+"="+l.String(), "GORACE=halt_on_error=1")
	w.cmd.Stderr = os.Stderr
	w.in, err = w.cmd.StdinPipe()
	require.NoError(h.t, err)
	out, err := w.cmd.StdoutPipe()
	require.NoError(h.t, err)
	require.NoError(h.t, w.cmd.Start())
	h.t.Cleanup(func() { w.end() })
	go func() { // ends with the writer
		defer close(w.lines)
		for in := bufio.NewReader(out); ; {
			line, err := in.ReadString('\n')
			if err != nil {
				return // what the kill has cut off was not said
			}
			w.lines <- strings.TrimSuffix(line, "\n")
		}
	}()
	return w
}

func (w *child) tell(what string) { _, _ = fmt.Fprintln(w.in, what) }

// end kills the writer, and drops what it still has to say. Ending it twice is fine.
func (w *child) end() {
	_ = w.cmd.Process.Kill()
	for range w.lines { // until it is closed
	}
	_ = w.cmd.Wait()
}

// live hears what w has to say for that long.
func (h *hunt) live(w *child, long time.Duration) {
	h.t.Helper()
	for timer := time.After(long); ; {
		select {
		case line, ok := <-w.lines:
			if !ok {
				h.t.Fatalf("life %d has ended by itself: %v", w.number, w.cmd.Wait())
			}
			h.heard(w, line)
		case <-timer:
			return
		}
	}
}

// await hears what w has to say until it says that.
func (h *hunt) await(w *child, what string) {
	h.t.Helper()
	for timer := time.After(2 * patience); ; {
		select {
		case line, ok := <-w.lines:
			if !ok {
				h.t.Fatalf("life %d has ended by itself: %v", w.number, w.cmd.Wait())
			}
			h.heard(w, line)
			if line == what {
				return
			}
		case <-timer:
			h.t.Fatalf("life %d never said %q", w.number, what)
		}
	}
}

// heard takes down a line of w.
func (h *hunt) heard(w *child, line string) {
	h.t.Helper()
	if h.hears != nil {
		h.hears(line)
		return
	}
	word := strings.Fields(line)
	switch word[0] {
	case "opening", "settled", "closed":
	case "open":
		w.open = true
	case "b":
		id, all := word[1], word[3:]
		h.ops[id] = all
		h.tally.begun++
		for _, key := range all {
			if k := h.byKey[key]; len(k.ops) == 0 || k.last().id != id { // a Del may name a key twice
				k.ops = append(k.ops, op{id: id, del: word[2] == "d", life: w.number, begun: time.Now()})
			}
		}
	case "a", "e":
		id, note := word[1], strings.Join(word[2:], " ")
		for _, key := range h.ops[id] {
			last := h.byKey[key].last()
			require.Equal(h.t, id, last.id, "the test is wrong: operations of %s overlap", key)
			if last.outcome, last.note = acknowledged, note; word[0] == "e" {
				last.outcome = failed
			}
		}
		delete(h.ops, id)
		if word[0] == "a" {
			h.tally.acknowledged++
		} else {
			h.tally.failed++
		}
	case "j":
		h.byKey[word[1]].last().kept = true
	case "r":
		h.tally.reads++
		h.require(word[1], h.byKey[word[1]].checkID(word[1], word[2]), fmt.Sprintf("life %d (%v) has read it, %s", w.number, w.life, word[3]))
	default: // fatal, or a panic
		h.t.Fatalf("life %d: %s", w.number, line)
	}
}

func (h *hunt) require(key string, wrong error, how string) {
	h.t.Helper()
	if wrong != nil {
		h.tally.wrong++
		h.t.Errorf("%v\n%s, %v; its story:\n%s", wrong, how, time.Now().Format("05.000000"), h.byKey[key].story())
	}
}

func (h *hunt) kill(w *child) {
	h.t.Helper()
	require.NoError(h.t, w.cmd.Process.Kill())
	killed := time.Now()
	for line := range w.lines { // what is in the pipe was said before
		h.heard(w, line)
	}
	err := w.cmd.Wait()
	require.ErrorContains(h.t, err, "killed", "life %d has ended by itself", w.number)
	h.tally.kills++
	if !w.open {
		h.tally.opening++
	}
	for id, all := range h.ops {
		h.tally.unanswered++
		for _, key := range all {
			h.byKey[key].last().note = "killed " + killed.Format("05.000000")
		}
		delete(h.ops, id)
	}
}

// settle has w stop, and compares what Redis has with what was said.
func (h *hunt) settle(w *child) {
	h.t.Helper()
	w.tell("settle")
	h.await(w, "settled")
	require.Empty(h.t, h.ops)
	require.Empty(h.t, h.files("quarantine"))
	names := make([]any, 0, keys+1)
	names = append(names, "MGET")
	for n := range keys {
		names = append(names, keyName(n))
	}
	values, ok := h.server.Do(names...).([]any)
	require.True(h.t, ok)
	for n := range keys {
		key := keyName(n)
		var value *string
		if text, ok := values[n].(string); ok {
			value = &text
		}
		h.require(key, h.byKey[key].check(key, value), "Redis has it")
		h.tally.compared++
	}
	w.tell("go")
}

// close has w close its client.
func (h *hunt) close(w *child) {
	h.t.Helper()
	require.NoError(h.t, w.in.Close())
	h.await(w, "closed")
	for line := range w.lines {
		h.heard(w, line)
	}
	require.NoError(h.t, w.cmd.Wait())
	h.tally.closed++
}

// files are the names of the files in a folder of the directory.
func (h *hunt) files(folder string) (names []string) {
	h.t.Helper()
	err := filepath.WalkDir(filepath.Join(h.dir, folder), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if !errors.Is(err, fs.ErrNotExist) {
		require.NoError(h.t, err)
	}
	return names
}

package crash

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/fallback/journal"
)

// The writer is the process that is killed. It speaks in lines, each of which leaves it whole and
// at once, by one write(2):
//
//	opening          it calls New
//	open             New has returned
//	b <id> <verb> <key> <key>…   it begins an operation, s or d
//	j <key>          the operation of this key that is under way is kept for replay
//	a <id>           the operation was acknowledged
//	e <id> <error>   it was not
//	r <key> <id> <mode>…         it has read the key, and found the value of that operation; "-": there is none
//	settled          as it was told to, it has stopped writing, Redis is well and nothing waits to be replayed
//	fatal <error>    it gives up
//
// And is told, in lines: settle, and after that go. When its input ends it closes the client, says
// "closed" and ends.

const (
	childRole = "ASIDE_CRASH_WRITER" // anything: be a writer
	childLife = "ASIDE_CRASH_LIFE"   // of life, as parameters

	operatorRole = "operator" // be a writer of operations
)

const (
	keys    = 240
	workers = 8 // worker w owns the keys with number % workers == w
)

func keyName(n int) string { return "key" + strconv.Itoa(n) }

// life is how a writer is to live.
type life struct {
	number int
	seed   uint64
	addr   string
	dir    string
	sync   journal.Sync
	flush  time.Duration
	queue  int
	rate   int           // of replay
	pause  time.Duration // of a worker between operations
}

func (l life) String() string {
	return fmt.Sprintln(l.number, l.seed, l.addr, int(l.sync), int64(l.flush), l.queue, l.rate, int64(l.pause), l.dir)
}

func parseLife(s string) (l life, err error) {
	_, err = fmt.Sscanln(s, &l.number, &l.seed, &l.addr, (*int)(&l.sync), (*int64)(&l.flush), &l.queue, &l.rate, (*int64)(&l.pause), &l.dir)
	return l, err
}

func say(format string, args ...any) {
	// os.Stdout has no buffer: one Fprintf is one write(2), and less than PIPE_BUF is never torn.
	if _, err := fmt.Fprintf(os.Stdout, format+"\n", args...); err != nil {
		os.Exit(3) // nobody listens any more
	}
}

func fatal(err error) int {
	say("fatal %s", strings.ReplaceAll(err.Error(), "\n", "; "))
	return 1
}

// runWriter is the main of a writer.
func runWriter() int {
	l, err := parseLife(os.Getenv(childLife))
	if err != nil {
		return fatal(err)
	}
	say("opening")
	options := l.options()
	options.LockTTL = 200 * time.Millisecond
	options.Observer = aside.ObserverFunc(func(_ context.Context, e aside.Event) {
		if e.Kind == aside.EventJournaled {
			say("j %s", e.Key)
		}
	})
	client, err := aside.New(options)
	if err != nil {
		return fatal(err)
	}
	say("open")
	w := &writer{life: l, client: client}
	stop := w.start()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch in.Text() {
		case "settle":
			stop()
			if err := w.settle(); err != nil {
				return fatal(err)
			}
			say("settled")
		case "go":
			stop = w.start()
		default:
			return fatal(fmt.Errorf("told to %q", in.Text()))
		}
	}
	stop()
	return closed(client)
}

func (l life) options() aside.Options {
	return aside.Options{
		Redis:          rueidis.ClientOption{InitAddress: []string{l.addr}},
		ConnectTimeout: 50 * time.Millisecond, RedisTimeout: 50 * time.Millisecond, StaleLease: 200 * time.Millisecond,
		FallbackDir: l.dir, Fallback: fallback.Options{Sync: l.sync, FlushInterval: l.flush, MaxQueue: l.queue},
		ReplayRate: l.rate, Logger: slog.New(slog.DiscardHandler),
	}
}

// closed closes a writer's client, and is how the writer ends.
func closed(client *aside.Client) int {
	if err := client.Close(); err != nil && !strings.Contains(err.Error(), "is not closed yet") { // a busy disk; the next one has it all
		return fatal(err)
	}
	say("closed")
	return 0
}

type writer struct {
	life
	client *aside.Client
	round  int // of workers
}

// start starts the workers; stop returns when they have finished what they have begun.
func (w *writer) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	w.round++
	var all sync.WaitGroup
	for n := range workers {
		all.Go(func() { w.work(ctx, n) }) // ends with ctx
	}
	return func() {
		cancel()
		all.Wait()
	}
}

func (w *writer) work(ctx context.Context, n int) {
	rng := rand.New(rand.NewPCG(w.seed, uint64(w.round*workers+n)))
	pick := func() string { return keyName(rng.IntN(keys/workers)*workers + n) }
	for i := 0; ctx.Err() == nil; i++ {
		id := fmt.Sprintf("%d.%d.%d.%d", w.number, w.round, n, i)
		switch draw := rng.IntN(100); {
		case draw < 15:
			w.read(pick())
		case draw < 65:
			key := pick()
			filling := rng.IntN(300)
			if rng.IntN(50) == 0 {
				filling = 20_000
			}
			w.do(rng, id, "s", []string{key}, func(ctx context.Context) error {
				return w.client.Set(ctx, time.Hour, key, newValue(key, id, filling))
			})
		default:
			some := []string{pick()}
			if draw >= 90 {
				for range rng.IntN(6) {
					some = append(some, pick())
				}
			}
			w.do(rng, id, "d", some, func(ctx context.Context) error { return w.client.Del(ctx, some...) })
		}
		if w.pause > 0 {
			time.Sleep(w.pause)
		}
	}
}

func (w *writer) do(rng *rand.Rand, id, verb string, keys []string, call func(context.Context) error) {
	patience := 5 * time.Second
	if rng.IntN(10) == 0 { // a caller with little time
		patience = time.Duration(1+rng.IntN(30)) * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	say("b %s %s %s", id, verb, strings.Join(keys, " "))
	err := call(ctx)
	cancel()
	if err != nil {
		say("e %s %s", id, strings.ReplaceAll(err.Error(), "\n", "; "))
		if !errors.Is(err, aside.ErrUnknownOutcome) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, aside.ErrRedisAway) {
			os.Exit(fatal(err))
		}
		return
	}
	say("a %s", id)
}

// read tells what a key holds, if this process knows.
func (w *writer) read(key string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	before := w.client.Health().Mode
	value, ok, err := w.client.Peek(ctx, key)
	cancel()
	if err != nil {
		return
	}
	id := "-"
	if ok {
		if id, err = parseValue(key, value); err != nil {
			os.Exit(fatal(err))
		}
	}
	say("r %s %s %v-%v", key, id, before, w.client.Health().Mode)
}

// settle waits until Redis is well and has all that there is.
func (w *writer) settle() error {
	for end := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		h := w.client.Health()
		switch f := h.Fallback; {
		case f.Quarantined > 0:
			return fmt.Errorf("%d in quarantine", f.Quarantined)
		case h.Mode == aside.Healthy && f.Sets+f.Deletes == 0 && !h.Replay.Running:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("not settled within %v: %+v", patience, h)
		}
	}
}

package crash

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback/journal"
)

// The operator is a writer of operations. It speaks as the writer does: opening, open, fatal,
// settled, closed; and of each operation, which has a key of its kind for each worker,
//
//	b <id> <kind>    it begins. n adds 1 to a number; h adds 1 to the field <id> of a hash; l pushes <id> to a list; s adds
//	                 <id> to a set; p pushes <id> twice, as one; t pushes <id> to a list and adds 1 to the field <id> of a hash, as
//	                 one, if Redis is away
//	a <id>           it was acknowledged: done, or kept
//	e <id> <error>   nobody knows

const operators = 4 // workers

// operationKinds are what a worker does in turn.
var operationKinds = []string{"n", "h", "l", "s", "p", "t"}

// besideOf is the key of the hash that a transaction on the list under key writes.
func besideOf(key string) string { return key + ":beside" }

func operationKey(kind string, worker int) string { return "ops:" + kind + ":" + strconv.Itoa(worker) }

// runOperator is the main of an operator.
func runOperator() int {
	l, err := parseLife(os.Getenv(childLife))
	if err != nil {
		return fatal(err)
	}
	say("opening")
	options := l.options()
	options.Fallback.Sync = journal.OS
	client, err := aside.New(options)
	if err != nil {
		return fatal(err)
	}
	say("open")
	w := &writer{life: l, client: client}
	stop := w.operate()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		stop()
		for end := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
			h := client.Health()
			if h.Fallback.Quarantined > 0 {
				return fatal(fmt.Errorf("%d in quarantine: %w", h.Fallback.Quarantined, h.Replay.Report.Refusal))
			}
			if h.Mode == aside.Healthy && h.Fallback.Pending() == 0 && !h.Replay.Running {
				break
			}
			if time.Now().After(end) {
				return fatal(fmt.Errorf("not settled within %v: %+v", patience, h))
			}
		}
		say("settled")
	}
	stop()
	return closed(client)
}

// operate starts the workers; stop returns when they have finished what they have begun.
func (w *writer) operate() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for n := range operators {
		all.Go(func() { // ends with ctx
			for i := 0; ctx.Err() == nil; i++ {
				kind := operationKinds[i%len(operationKinds)]
				w.operation(fmt.Sprintf("%d.%d.%d", w.number, n, i), kind, operationKey(kind, n))
				time.Sleep(w.pause)
			}
		})
	}
	return sync.OnceFunc(func() {
		cancel()
		all.Wait()
	})
}

func (w *writer) operation(id, kind, key string) {
	ops := map[string][]aside.Operation{
		"n": {{"INCR"}}, "h": {{"HINCRBY", id, "1"}}, "l": {{"RPUSH", id}}, "s": {{"SADD", id}}, "p": {{"RPUSH", id}, {"RPUSH", id}},
	}[kind]
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	say("b %s %s", id, kind)
	var err error
	if kind == "t" {
		err = w.client.ApplyAway(ctx, []aside.Change{{Key: key, Operations: []aside.Operation{{"RPUSH", id}}}, {Key: besideOf(key), Operations: []aside.Operation{{"HINCRBY", id, "1"}}}}, nil)
	} else {
		_, err = w.client.Apply(ctx, key, ops, nil)
	}
	cancel()
	switch {
	case err == nil, errors.Is(err, aside.ErrKept):
		say("a %s", id)
	case errors.Is(err, aside.ErrNotAway), errors.Is(err, aside.ErrUnknownOutcome), errors.Is(err, context.DeadlineExceeded), errors.Is(err, aside.ErrRedisAway):
		say("e %s %s", id, strings.ReplaceAll(err.Error(), "\n", "; "))
	default:
		os.Exit(fatal(err))
	}
}

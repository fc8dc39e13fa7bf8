// Stampede shows the promise "one load per cold key across all processes" at work. It starts
// processes (itself), each with hundreds of callers that ask for the same cold key at the same
// moment, round after round, and counts how often the loader was called and how soon everybody had
// the value.
//
//	go run ./examples/stampede                # a Redis at REDIS_ADDR, else one that is started for the run
//	go run ./examples/stampede -rounds 50
//	go run ./examples/stampede -json
//
// The loader sleeps. That stands for a slow query: what is measured here is not the loader but
// everything around it. The exit code is 1 if the loader of any round was not called exactly once.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/redaside/aside/examples/internal/ownredis"
)

type settings struct {
	redis     string
	rounds    int
	processes int
	callers   int // per process
	loader    time.Duration
	json      bool
}

func main() {
	if child := os.Getenv(childEnv); child != "" {
		if err := runChild(child, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "stampede: child:", err)
			os.Exit(1)
		}
		return
	}
	var set settings
	flag.StringVar(&set.redis, "redis", cmp.Or(os.Getenv("REDIS_ADDR"), "127.0.0.1:6379"), "host:port of Redis; also REDIS_ADDR")
	flag.IntVar(&set.rounds, "rounds", 10, "cold keys to ask for, one after another")
	flag.IntVar(&set.processes, "processes", 4, "processes that ask")
	flag.IntVar(&set.callers, "callers", 200, "goroutines that ask, in each process")
	flag.DurationVar(&set.loader, "loader", 50*time.Millisecond, "how long the loader takes")
	flag.BoolVar(&set.json, "json", false, "print the summary as JSON and nothing else")
	flag.Parse()
	if set.rounds < 1 || set.processes < 1 || set.callers < 1 || set.loader < 0 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}

	// A server that we start ends with the thread that started it, so it must be this one, which
	// lasts.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := runParent(ctx, set, os.Stdout); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "stampede:", err)
		os.Exit(1)
	}
}

var errNotOnce = errors.New("the loader was not called exactly once in each round")

func runParent(ctx context.Context, set settings, out *os.File) (err error) {
	began := time.Now()
	addr, started, err := ownredis.Find(ctx, set.redis)
	if err != nil {
		return err
	}
	defer started.Stop()
	children, err := startChildren(set, addr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, children.stop()) }()

	t := newTable(out, set)
	if started != nil {
		t.say("no Redis at %s: using a redis-server started for this run at %s", set.redis, addr)
	}
	sum := newSummary(set)
	for n := range set.rounds {
		r, err := children.round(ctx, n)
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		if err != nil {
			return err
		}
		sum.add(r)
		t.row(n+1, r, sum)
	}
	t.end(sum.finish(time.Since(began)))
	if !sum.Once {
		return errNotOnce
	}
	return nil
}

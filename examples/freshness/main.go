// Freshness shows what callers get while a source is slow or fails, and what each option changes: a
// table of one key whose value ends, and one of many keys that are loaded together. Nothing is staged:
// each row asks clients of its own, and what it says of callers is what Fetch has told them.
//
//	go run ./examples/freshness                    # a Redis at REDIS_ADDR, else one that is started for the run
//	go run ./examples/freshness -redis host:6379
//
// It takes some five seconds, as all rows run at the same time.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/redaside/aside/examples/internal/ownredis"
)

const (
	ttl       = 2 * time.Second
	loadTime  = 200 * time.Millisecond // what the source takes for an answer, or to fail
	grace     = 20 * time.Second
	processes = 2  // clients of a row; each stands for a process
	callers   = 20 // of each process
	patience  = time.Minute
)

func main() {
	addr := flag.String("redis", cmp.Or(os.Getenv("REDIS_ADDR"), "127.0.0.1:6379"), "host:port of Redis; also REDIS_ADDR")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}

	// A server that we start ends with the thread that started it, so it must be this one, which
	// lasts.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, *addr); err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted")
		}
		stop()
		fmt.Fprintln(os.Stderr, "freshness:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, w io.Writer, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	found, started, err := ownredis.Find(ctx, addr)
	if err != nil {
		return err
	}
	defer started.Stop()
	if started != nil {
		fmt.Fprintf(w, "No Redis at %s: using a redis-server started for this run at %s.\n\n", addr, found)
	}
	prefix := "aside-freshness:" + rand.Text()[:8] + ":" // the keys end by themselves within the grace
	return errors.Join(tellOne(ctx, w, found, prefix), tellMany(ctx, w, found, prefix))
}

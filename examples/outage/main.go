// Outage is a story to watch: Redis dies under a service, the service goes on, then it dies too,
// comes back, Redis comes back, and everything is there. It starts a redis-server of its own and,
// as a process of its own, the service (itself), and kills both with SIGKILL. Nothing is staged:
// times are measured, and at the end Redis is asked directly, without the library.
//
//	go run ./examples/outage             # needs redis-server in PATH; or REDIS_SERVER=/path/to/redis-server
//	go run ./examples/outage -pause 0    # without the pauses for reading, which there are on a terminal only
//
// It takes about ten seconds. The exit code is 1 if anything is not as the service was promised.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// patience is when something must have gone wrong.
const patience = 2 * time.Minute

func main() {
	if config := os.Getenv(serviceEnv); config != "" {
		if err := runService(config, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "outage: the service:", err)
			os.Exit(1)
		}
		return
	}
	s := newScreen(os.Stdout)
	pause := flag.Duration("pause", s.readingPause(), "time for reading between the chapters")
	flag.Parse()
	if flag.NArg() > 0 || *pause < 0 {
		flag.Usage()
		os.Exit(2)
	}

	// Processes that we start end with the thread that started them, so it must be this one, which
	// lasts.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, s, *pause); err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted")
		}
		stop()
		fmt.Fprintln(os.Stderr, "outage:", err)
		os.Exit(1)
	}
}

var errBroken = errors.New("not everything is as promised")

func run(ctx context.Context, s *screen, pause time.Duration) (err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	program, err := findServer()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "aside-outage-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	t := &story{screen: s, pause: pause, folder: folder(dir + "/fallback")}
	if t.redis, err = newServer(program, dir+"/redis"); err != nil {
		return err
	}
	defer t.redis.kill()
	defer func() { t.service.kill() }()
	if err := t.tell(ctx); err != nil {
		return err
	}
	if t.broken {
		return errBroken
	}
	return nil
}

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
)

// childEnv makes a process a child; it holds its childSettings.
const childEnv = "ASIDE_STAMPEDE_CHILD"

type childSettings struct {
	Redis   string
	Callers int
	Loader  time.Duration
}

// task is what the parent writes, a line of JSON per round. The child answers with one, and ends
// with its stdin: so no child outlives its parent, however that ends.
type task struct {
	Key   string
	Start int64 // when the callers ask, in Unix nanoseconds: all processes run on this machine, so they share its clock
}

type answer struct {
	Loads  int
	Loaded int64      // when the loader returned, in Unix nanoseconds
	Calls  [][2]int64 // when each caller asked and when it had its value
	Error  string
}

// Product is what the callers want.
type Product struct {
	Key   string `json:"key"`
	Stock int    `json:"stock"`
}

func runChild(config string, in io.Reader, out io.Writer) error {
	signal.Ignore(os.Interrupt) // Ctrl-C reaches all of the terminal's processes; the parent decides what it means
	var set childSettings
	if err := json.Unmarshal([]byte(config), &set); err != nil {
		return err
	}
	client, err := aside.New(aside.Options{
		Redis:        rueidis.ClientOption{InitAddress: []string{set.Redis}},
		RequireRedis: true, // without it there is nothing to show
		Logger:       slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	products := aside.Typed(client, codec.JSON[Product]())

	ctx, cancel := context.WithCancel(context.Background())
	tasks := make(chan task)
	go func() { // ends with stdin
		defer close(tasks)
		defer cancel()
		for lines := bufio.NewScanner(in); lines.Scan(); {
			var t task
			if json.Unmarshal(lines.Bytes(), &t) != nil {
				return
			}
			select {
			case tasks <- t:
			case <-ctx.Done():
				return
			}
		}
	}()
	answers := json.NewEncoder(out)
	if err = answers.Encode(answer{}); err == nil { // ready
		for t := range tasks {
			if err = answers.Encode(ask(ctx, products, set, t)); err != nil {
				break
			}
		}
	}
	cancel()
	return errors.Join(err, client.Close())
}

// ask lets all callers ask for one key at the same moment.
func ask(ctx context.Context, products *aside.TypedClient[Product], set childSettings, t task) answer {
	a := answer{Calls: make([][2]int64, set.Callers)}
	var loads atomic.Int32
	var loaded atomic.Int64
	load := func(ctx context.Context, key string) (Product, error) {
		loads.Add(1)
		defer func() { loaded.Store(time.Now().UnixNano()) }()
		select {
		case <-time.After(set.Loader): // the slow query
			return Product{Key: key, Stock: 7}, nil
		case <-ctx.Done():
			return Product{}, ctx.Err()
		}
	}
	errs := make([]error, set.Callers)
	start := make(chan struct{})
	var all sync.WaitGroup
	for i := range set.Callers {
		all.Go(func() {
			<-start
			a.Calls[i][0] = time.Now().UnixNano()
			p, err := products.Get(ctx, time.Minute, t.Key, load)
			a.Calls[i][1] = time.Now().UnixNano()
			if err == nil && (p != Product{Key: t.Key, Stock: 7}) {
				err = errors.New("a caller got a wrong value")
			}
			errs[i] = err
		})
	}
	time.Sleep(time.Until(time.Unix(0, t.Start)))
	close(start)
	all.Wait()
	a.Loads, a.Loaded = int(loads.Load()), loaded.Load()
	for _, err := range errs {
		if err != nil {
			a.Error = err.Error()
			break
		}
	}
	return a
}

// Quickstart shows what a cache in front of a database does, step by step: which step was answered
// by memory, by Redis or by the database, and how long it took. Nothing is staged: the database is
// an embedded one (bbolt) with rows in it, and the column "from" is what the clients counted.
//
//	go run ./examples/quickstart                    # Redis at REDIS_ADDR, else at 127.0.0.1:6379
//	go run ./examples/quickstart -redis host:6379
//
// Without a Redis it works too, on a folder of its own, and shows what that costs.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
)

// ttl is also how long what this program writes into Redis stays there if it is killed, and the
// stamps of its deletes in any case.
const ttl = time.Minute

func main() {
	addr := flag.String("redis", cmp.Or(os.Getenv("REDIS_ADDR"), "127.0.0.1:6379"), "host:port of Redis; also REDIS_ADDR")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *addr); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, w io.Writer, addr string) (err error) {
	db, err := openDatabase()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.close()) }()
	a, err := newNode("A", addr, db)
	if err != nil {
		return err
	}
	defer func() { a.client.Close() }() // a may be another one then
	b, err := newNode("B", addr, db)
	if err != nil {
		return err
	}
	defer b.client.Close()

	s := &show{w: w, db: db, prefix: "aside-quickstart:" + rand.Text()[:8] + ":", withRedis: a.client.Stats().RedisConnected}
	defer s.cleanUp(a)
	s.head(addr)
	s.steps(ctx, a, b)
	if !s.withRedis && s.err == nil {
		if err := a.client.Close(); err != nil {
			return err
		}
		again, err := newNode("A", addr, db)
		if err != nil {
			return err
		}
		again.calls.Add(a.calls.Load())
		a = again
		s.step(a, "A ends, starts again, gets user 7", func() (string, error) {
			p, err := a.get(ctx, s.prefix, cold)
			return p.String(), err
		})
	}
	s.foot(a, b)
	return s.err
}

// node stands for a process: a client of its own, with its own connection and memory.
type node struct {
	name   string
	client *aside.Client
	users  *aside.TypedClient[Profile]
	db     *database
	calls  atomic.Int64 // Get and GetMulti
}

func newNode(name, addr string, db *database) (*node, error) {
	client, err := aside.New(aside.Options{
		Redis:       rueidis.ClientOption{InitAddress: []string{addr}},
		FallbackDir: filepath.Join(db.dir, name), // one for each process, and in earnest a place that stays
		StampTTL:    ttl,
		Logger:      slog.New(slog.DiscardHandler), // head says in a sentence what the log would say here
	})
	if err != nil {
		return nil, err
	}
	return &node{name: name, client: client, users: aside.Typed(client, codec.JSON[Profile]()), db: db}, nil
}

// get is what an application has in one place: the key, and how to load what belongs there.
func (n *node) get(ctx context.Context, prefix string, id int) (Profile, error) {
	n.calls.Add(1)
	return n.users.Get(ctx, ttl, userKey(prefix, id), func(ctx context.Context, _ string) (Profile, error) {
		return n.db.profile(ctx, id)
	})
}

func (n *node) getMulti(ctx context.Context, prefix string, ids []int) (map[string]Profile, error) {
	n.calls.Add(1)
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = userKey(prefix, id)
	}
	return n.users.GetMulti(ctx, ttl, keys, func(ctx context.Context, missing []string) (map[string]Profile, error) {
		var ids []int
		for _, key := range missing {
			id, err := strconv.Atoi(key[strings.LastIndexByte(key, ':')+1:])
			if err != nil {
				return nil, err
			}
			ids = append(ids, id)
		}
		rows, err := n.db.profiles(ctx, ids)
		found := make(map[string]Profile, len(rows))
		for _, p := range rows {
			found[userKey(prefix, p.ID)] = p
		}
		return found, err
	})
}

func userKey(prefix string, id int) string { return prefix + "user:" + strconv.Itoa(id) }

const ann, cold, missing, callers = 42, 7, 9999, 200

func (s *show) steps(ctx context.Context, a, b *node) {
	get := func(n *node, id int) func() (string, error) {
		return func() (string, error) {
			p, err := n.get(ctx, s.prefix, id)
			if errors.Is(err, aside.ErrNotFound) {
				return "not found", nil
			}
			return p.String(), err
		}
	}
	s.step(a, "A gets user 42", get(a, ann))
	s.step(a, "A gets it again", get(a, ann))
	s.step(b, "B, as another process, gets it", get(b, ann))
	s.step(a, "200 callers of A get user 7 at once", func() (string, error) {
		values := make([]Profile, callers)
		errs := make([]error, callers)
		var ready, all sync.WaitGroup
		ready.Add(callers)
		for i := range callers {
			all.Go(func() {
				ready.Done()
				ready.Wait() // for the others
				values[i], errs[i] = a.get(ctx, s.prefix, cold)
			})
		}
		all.Wait()
		for _, v := range values {
			if v != values[0] {
				errs = append(errs, fmt.Errorf("one caller got %v, another %v", values[0], v))
			}
		}
		return values[0].String(), errors.Join(errs...)
	})
	s.step(a, "user 42 moves; A deletes the key", func() (string, error) {
		if err := a.db.move(ann, "Porto"); err != nil {
			return "", err
		}
		return "now in Porto", a.users.Del(ctx, userKey(s.prefix, ann))
	})
	s.step(a, "A gets user 42", get(a, ann))
	if s.withRedis {
		s.step(b, "B gets it, once told of the change", func() (string, error) {
			// Del promises that A never serves the old value again, and B not after Redis's push
			// has arrived there.
			for {
				p, err := b.get(ctx, s.prefix, ann)
				if err != nil || p.City == "Porto" {
					return p.String(), err
				}
				time.Sleep(20 * time.Microsecond)
			}
		})
	} else {
		s.step(b, "B gets it, told by nobody", get(b, ann)) // the old value, for DegradedTTL at most
	}
	s.step(a, "A gets user 9999, whom nobody knows", get(a, missing))
	s.step(a, "A gets user 9999 again", get(a, missing))
	s.step(b, "B gets user 1", get(b, 1))
	s.step(a, "A gets 5 users: 42, 7, 1, 2, 3", func() (string, error) {
		found, err := a.getMulti(ctx, s.prefix, []int{ann, cold, 1, 2, 3})
		return fmt.Sprintf("%d profiles", len(found)), err
	})
}

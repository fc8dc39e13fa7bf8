package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/redaside/aside"
)

// show prints what the steps do. It stops at the first error.
type show struct {
	w         io.Writer
	db        *database
	prefix    string // of all keys
	withRedis bool
	err       error
}

const row = "%-36s %-32s %-26s %7s  %s\n"

func (s *show) head(addr string) {
	redis := "found at " + addr + ". Values are shared through it, and hot ones answered from memory."
	if !s.withRedis {
		redis = "not found at " + addr + ". All works, on a folder of each process; but processes do not hear of\n" +
			"          each other, and the database is asked more often: see \"from\" and \"queries\"."
	}
	fmt.Fprintf(s.w, "Redis     %s\n", redis)
	fmt.Fprintf(s.w, "Database  bbolt, embedded, with %d users and %d orders; a query for profiles reads all orders.\n\n", userCount, orderCount)
	fmt.Fprintf(s.w, row, "step", "value", "from", "queries", "took")
	fmt.Fprintln(s.w, strings.Repeat("-", 36+1+32+1+26+1+7+2+8))
}

// step does one thing with n and prints a line about it.
func (s *show) step(n *node, name string, do func() (value string, err error)) {
	if s.err != nil {
		return
	}
	before, queries, began := n.client.Stats(), s.db.queries.Load(), time.Now()
	value, err := do()
	took := time.Since(began)
	if err != nil {
		s.err = fmt.Errorf("%s: %w", name, err)
		return
	}
	fmt.Fprintf(s.w, row, name, value, from(before, n.client.Stats()), fmt.Sprint(s.db.queries.Load()-queries), rounded(took))
	for n.client.Stats().Waiting > 0 { // a Get does not wait until what it has loaded is stored; the next step wants to see it there
		time.Sleep(100 * time.Microsecond)
	}
}

// from says which tier answered, by the client's counters.
func from(before, after aside.Stats) string {
	var parts []string
	add := func(n int64, one, many string) {
		switch {
		case n == 1:
			parts = append(parts, one)
		case n > 1:
			parts = append(parts, fmt.Sprintf(many, n))
		}
	}
	add(after.MemoryHits-before.MemoryHits, "memory", "memory (%d×)")
	add(after.RedisHits-before.RedisHits, "redis", "redis (%d×)")
	add(after.DiskHits-before.DiskHits, "disk", "disk (%d×)")
	add(after.Loads-before.Loads, "loader", "loader (%d×)")
	add(after.Shared-before.Shared, "1 shared", "%d shared")
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, ", ")
}

func rounded(d time.Duration) time.Duration {
	switch {
	case d > 10*time.Millisecond:
		return d.Round(time.Millisecond)
	case d > 100*time.Microsecond:
		return d.Round(10 * time.Microsecond)
	default:
		return d.Round(100 * time.Nanosecond)
	}
}

func (s *show) foot(a, b *node) {
	if s.err != nil {
		return
	}
	calls := a.calls.Load() + b.calls.Load()
	fmt.Fprintf(s.w, "\n%d calls asked the database %d times. \"shared\": waited for another caller's query.\n", calls, s.db.queries.Load())
	if !s.withRedis {
		fmt.Fprintf(s.w, "%d delete is on disk, for Redis to be told when it is back: go run ./examples/outage shows that.\n", a.client.Stats().Pending)
		fmt.Fprintln(s.w, "Start a Redis (redis-server, or docker run -p 6379:6379 redis) and run this again to compare.")
	}
}

// cleanUp removes the keys of this run from Redis; the stamps of that end with their ttl. Without
// Redis there are none.
func (s *show) cleanUp(n *node) {
	if !s.withRedis {
		return
	}
	var keys []string
	for _, id := range []int{42, 7, 9999, 1, 2, 3} {
		keys = append(keys, userKey(s.prefix, id))
	}
	if err := n.client.Del(context.Background(), keys...); err != nil {
		fmt.Fprintf(s.w, "The keys %s* stay for %v: %v\n", s.prefix, ttl, err)
	}
}

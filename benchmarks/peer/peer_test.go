package peer_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/benchmarks/internal/bench"
	"github.com/redaside/aside/benchmarks/peer"
)

func TestMain(m *testing.M) { bench.Main(m) }

func open(t *testing.T) *peer.Client {
	t.Helper()
	c, err := peer.New(rueidis.ClientOption{InitAddress: []string{bench.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestOneLoadServesAllClients(t *testing.T) {
	clients := []*peer.Client{open(t), open(t), open(t)}
	for round := range 20 {
		key := bench.Key("peer-once", round)
		var loads atomic.Int32
		var all sync.WaitGroup
		for i := range 90 {
			all.Go(func() {
				got, err := clients[i%3].Get(t.Context(), time.Minute, key, func(context.Context, string) (string, error) {
					loads.Add(1)
					time.Sleep(5 * time.Millisecond)
					return "v", nil
				})
				if got != "v" || err != nil {
					t.Errorf("got %q, %v", got, err)
				}
			})
		}
		all.Wait()
		if n := loads.Load(); n != 1 {
			t.Errorf("%d loads", n)
		}
	}
}

func TestAFailedLoadGivesUpTheLock(t *testing.T) {
	c, key := open(t), bench.Key("peer-fail", 0)
	if _, err := c.Get(t.Context(), time.Minute, key, func(context.Context, string) (string, error) { return "", fmt.Errorf("no") }); err == nil {
		t.Fatal("no error")
	}
	got, err := c.Get(t.Context(), time.Minute, key, func(context.Context, string) (string, error) { return "v", nil })
	if got != "v" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

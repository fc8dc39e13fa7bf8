package aside_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/internal/redistest"
)

// Some promises are about processes. The test binary starts itself again with a role and speaks
// with it in lines.

const (
	childRole = "ASIDE_TEST_CHILD" // what the child does
	childAddr = "ASIDE_TEST_ADDR"  // the server's address
)

// runChild is the main of a child. It ends when its standard input does.
func runChild(role string) int {
	client, err := aside.New(aside.Options{
		Redis: rueidis.ClientOption{InitAddress: []string{os.Getenv(childAddr)}}, ConnectTimeout: patience, RequireRedis: true,
		RedisTimeout: 2 * time.Second, LockTTL: 4 * time.Second, Logger: quiet,
	})
	if role == "holder" { // its locks live as long as the defaults say
		client, err = aside.New(aside.Options{
			Redis: rueidis.ClientOption{InitAddress: []string{os.Getenv(childAddr)}}, ConnectTimeout: patience, RequireRedis: true, Logger: quiet,
		})
	}
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	defer client.Close()
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		key := in.Text()
		switch role {
		case "holder": // loads for ever
			_, err := client.Get(context.Background(), time.Minute, key, func(ctx context.Context, _ string) (string, error) {
				fmt.Println("loading")
				<-ctx.Done()
				return "", ctx.Err()
			})
			fmt.Println("error", err)
		case "tagged": // loads what it has read before it was stopped
			value, err := client.Get(context.Background(), time.Minute, key, func(context.Context, string) (string, error) {
				fmt.Println("loading")
				in.Scan()
				return "old", nil
			}, aside.WithTags("x"))
			fmt.Println("got", value, err)
		case "loser": // loads until it has lost its lock
			value, err := client.Get(context.Background(), time.Minute, key, func(ctx context.Context, _ string) (string, error) {
				fmt.Println("loading")
				<-ctx.Done()
				fmt.Println("ended:", context.Cause(ctx))
				return "", ctx.Err()
			})
			fmt.Println("got", value, err)
		case "refresher": // refreshes a stale key, when it is told to go on
			goOn := make(chan struct{})
			view := aside.Typed(client, codec.String(), aside.WithGrace(grace))
			value, err := view.Get(context.Background(), fresh, key, func(context.Context, string) (string, error) {
				fmt.Println("loading")
				<-goOn
				return "stopped", nil
			})
			if err != nil {
				fmt.Println("error", err)
			}
			fmt.Println("got", value)
			in.Scan()
			close(goOn)
			for client.Stats().Waiting > 0 {
				time.Sleep(time.Millisecond)
			}
			fmt.Println("over") // by a refused fill or renewal, or because Redis seems away
		case "refreshers": // 200 callers of one stale key, until it is refreshed
			view := aside.Typed(client, codec.String(), aside.WithGrace(grace))
			var callers sync.WaitGroup
			for range 200 {
				callers.Go(func() {
					for value := ""; value != "1"; time.Sleep(time.Millisecond) {
						var err error
						value, err = view.Get(context.Background(), fresh, key, func(context.Context, string) (string, error) {
							fmt.Println("load")
							time.Sleep(50 * time.Millisecond) // stands for a slow query
							return "1", nil
						})
						if err != nil || value != "0" && value != "1" {
							fmt.Println("error", value, err)
							return
						}
					}
				})
			}
			callers.Wait()
			fmt.Println("done")
		case "stampede": // 200 callers of one key
			var callers sync.WaitGroup
			for range 200 {
				callers.Go(func() {
					value, err := client.Get(context.Background(), time.Minute, key, func(context.Context, string) (string, error) {
						fmt.Println("load")
						time.Sleep(50 * time.Millisecond) // stands for a slow query
						return "of " + key, nil
					})
					if err != nil || value != "of "+key {
						fmt.Println("error", value, err)
					}
				})
			}
			callers.Wait()
			fmt.Println("done")
		}
	}
	return 0
}

type child struct {
	t    *testing.T
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  chan string
	once sync.Once
}

func startChild(t *testing.T, role, addr string) *child {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	c := &child{t: t, cmd: exec.Command(self), out: make(chan string, 1024)}
	c.cmd.Env = append(os.Environ(), childRole+"="+role, childAddr+"="+addr)
	c.cmd.Stderr = os.Stderr
	c.in, err = c.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.cmd.Start())
	t.Cleanup(c.kill)
	go func() { // ends with the child
		defer close(c.out)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			c.out <- lines.Text()
		}
	}()
	require.Equal(t, "ready", c.line())
	return c
}

func (c *child) line() string {
	c.t.Helper()
	return await(c.t, c.out)
}

func (c *child) say(line string) {
	c.t.Helper()
	_, err := fmt.Fprintln(c.in, line)
	require.NoError(c.t, err)
}

func (c *child) kill() {
	c.once.Do(func() {
		_ = c.cmd.Process.Kill()
		for range c.out { // until its pipe is closed
		}
		_ = c.cmd.Wait()
	})
}

// Promise 1: four processes, 200 callers each, one load per round.
func TestOneLoadPerColdKeyAcrossProcesses(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	var children []*child
	for range 4 {
		children = append(children, startChild(t, "stampede", server.Addr()))
	}
	for round := range 50 {
		for _, c := range children {
			c.say(fmt.Sprint("round ", round))
		}
		loads := 0
		for _, c := range children {
			for line := c.line(); line != "done"; line = c.line() {
				require.Equal(t, "load", line)
				loads++
			}
		}
		require.Equal(t, 1, loads, "round %d", round)
	}
}

// A process that is killed while it loads costs the others the rest of its lock, LockTTL at most.
func TestAKilledHolderIsTakenOver(t *testing.T) {
	server := redistest.Start(t)
	c := newClient(t, server.Addr(), hasty)
	holder := startChild(t, "holder", server.Addr())
	holder.say("k")
	require.Equal(t, "loading", holder.line())
	db := newSource("v")
	waiting := inBackground(func() (string, error) { return c.Get(testContext(t), time.Minute, "k", db.Load) })
	eventually(t, "it waits", func() bool { return c.Stats().LockWaits > 0 })
	require.True(t, strings.HasPrefix(fmt.Sprint(server.Do("GET", "k")), "\x00aside:lock:"))
	latest := watchIdleServer(t)
	killed := time.Now()
	holder.kill()
	require.Equal(t, result{Value: "v"}, await(t, waiting))
	took, late := time.Since(killed), latest()
	t.Logf("taken over %v after the kill; an idle server was %v late", took, late)
	require.Less(t, took, 2600*time.Millisecond+10*late, "LockTTL is 2 s; the rest is for the machine")
}

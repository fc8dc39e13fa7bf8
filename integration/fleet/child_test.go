package fleet_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
)

// A child process holds clients and does what its parent tells it, a line at a time:
//
//	open N ADDR...     make N clients; the addresses of a cluster, or one
//	get FROM TO        each client reads the keys k<FROM> to k<TO>, one after the other
//	use SECONDS        each client reads k0 ten times a second for so long
//	pushes             how many invalidations the clients have been told of
//	heap               bytes of the heap that are in use
//	close
//
// It answers each with a line: a number, or the error.
const childRole = "ASIDE_FLEET_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childRole) != "" {
		if err := obey(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// clients are those of a child. Used by one goroutine.
type clients []*aside.Client

func obey() error {
	var all clients
	defer func() { all.close() }()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		answer, err := all.do(strings.Fields(lines.Text()))
		if err != nil {
			return err
		}
		fmt.Println(answer)
	}
	return lines.Err()
}

func (all *clients) do(words []string) (answer int64, err error) {
	number := func(i int) int { n, _ := strconv.Atoi(words[i]); return n }
	switch words[0] {
	case "open":
		return 0, all.open(number(1), words[2:])
	case "get":
		return 0, all.each(func(c *aside.Client) error {
			for i := number(1); i < number(2); i++ {
				if err := read(c, fmt.Sprint("k", i)); err != nil {
					return err
				}
			}
			return nil
		})
	case "use":
		end := time.Now().Add(time.Duration(number(1)) * time.Second)
		for time.Now().Before(end) {
			for _, c := range *all {
				if err := read(c, "k0"); err != nil {
					return 0, err
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
	case "pushes":
		for _, c := range *all {
			answer += c.Stats().Invalidations
		}
	case "heap":
		runtime.GC()
		runtime.GC() // what was pooled
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		answer = int64(m.HeapAlloc)
	case "close":
		all.close()
	}
	return answer, nil
}

func (all *clients) open(n int, addrs []string) error {
	var mu sync.Mutex
	var opening sync.WaitGroup
	var failed error
	places := make(chan struct{}, 8)
	for range n {
		places <- struct{}{}
		opening.Go(func() {
			defer func() { <-places }()
			c, err := aside.New(aside.Options{
				Redis: rueidis.ClientOption{InitAddress: addrs}, RequireRedis: true, ConnectTimeout: patience,
				RedisTimeout: time.Second, // a machine that is busy with others is no outage
				Logger:       slog.New(slog.DiscardHandler),
			})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
				return
			}
			*all = append(*all, c)
		})
	}
	opening.Wait()
	return failed
}

// each does something with all clients, sixteen at a time.
func (all *clients) each(do func(*aside.Client) error) error {
	work, failed := make(chan *aside.Client), make(chan error, len(*all))
	var working sync.WaitGroup
	for range 16 {
		working.Go(func() {
			for c := range work {
				if err := do(c); err != nil {
					failed <- err
				}
			}
		})
	}
	for _, c := range *all {
		work <- c
	}
	close(work)
	working.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

func (all *clients) close() {
	_ = all.each(func(c *aside.Client) error { return c.Close() })
	*all = nil
}

func read(c *aside.Client, key string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := c.Get(ctx, time.Hour, key, func(context.Context, string) (string, error) { return value, nil })
	return err
}

// child is a process with clients, as its parent sees it.
type child struct {
	t   *testing.T
	in  *os.File
	out *bufio.Reader
}

func startChild(t *testing.T) *child {
	t.Helper()
	program, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(program)
	cmd.Env, cmd.Stderr = append(os.Environ(), childRole+"=1"), os.Stderr
	read, write, err := os.Pipe()
	require.NoError(t, err)
	cmd.Stdin = read
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	require.NoError(t, read.Close())
	t.Cleanup(func() {
		_ = write.Close() // which ends it
		require.NoError(t, cmd.Wait())
	})
	return &child{t: t, in: write, out: bufio.NewReader(out)}
}

// tell has all children do something at once, and returns the sum of what they answer.
func tell(children []*child, format string, args ...any) (sum int64) {
	for _, c := range children {
		_, err := fmt.Fprintf(c.in, format+"\n", args...)
		require.NoError(c.t, err)
	}
	for _, c := range children {
		line, err := c.out.ReadString('\n')
		require.NoError(c.t, err, "a child has ended")
		n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
		require.NoError(c.t, err)
		sum += n
	}
	return sum
}

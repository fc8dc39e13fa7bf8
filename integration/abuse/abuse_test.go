package abuse_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
)

var (
	howLong = flag.Duration("for", 5*time.Second, "how long the proxy is abused")
	idle    = flag.Int("idle", 1000, "connections that never say anything, over both ports")
)

// patience bounds every wait for something that has to happen. It proves nothing about speed.
const patience = time.Minute

// served is a running proxy.
type served struct {
	t          *testing.T
	cmd        *exec.Cmd
	exited     chan struct{}
	http, resp string
}

func start(t *testing.T) *served {
	t.Helper()
	server := redistest.Start(t)
	dir := t.TempDir()
	program := filepath.Join(dir, "aside")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = "../../cmd/aside" // with the versions in that module's go.mod
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	s := &served{t: t, exited: make(chan struct{})}
	s.cmd = exec.Command(program, "serve", "--redis", "redis://"+server.Addr(), "--port", "0", "--resp-port", "0", "--fallback-dir", filepath.Join(dir, "fallback"))
	s.cmd.Stderr = os.Stderr
	stdout, err := s.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, s.cmd.Start())
	said := bufio.NewReader(stdout)
	for s.http == "" || s.resp == "" {
		line, err := said.ReadString('\n')
		require.NoError(t, err)
		if m := regexp.MustCompile(`^ +HTTP +http://(\S+)/ `).FindStringSubmatch(line); m != nil {
			s.http = m[1]
		}
		if m := regexp.MustCompile(`^ +RESP +(\S+)`).FindStringSubmatch(line); m != nil {
			s.resp = m[1]
		}
	}
	go func() { // ends with the proxy
		defer close(s.exited)
		_, _ = io.Copy(io.Discard, said)
		_ = s.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-s.exited:
		case <-time.After(patience):
			t.Error("it does not end")
			_ = s.cmd.Process.Kill()
		}
	})
	return s
}

// gauge reads a metric without labels.
func (s *served) gauge(name string) float64 {
	s.t.Helper()
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	reply, err := client.Get("http://" + s.http + "/metrics")
	require.NoError(s.t, err)
	defer reply.Body.Close()
	for lines := bufio.NewScanner(reply.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			f, err := strconv.ParseFloat(value, 64)
			require.NoError(s.t, err)
			return f
		}
	}
	s.t.Fatalf("there is no metric %s", name)
	return 0
}

// caller behaves. It returns an error for an answer that is not right.
func (s *served) caller(ctx context.Context, n int, longest *atomic.Int64) (calls int, err error) {
	conn, err := net.Dial("tcp", s.resp)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := http.Client{Timeout: patience, Transport: transport}
	for ; ctx.Err() == nil; calls++ {
		began := time.Now()
		value := fmt.Sprintf("%d.%d", n, calls)
		_ = conn.SetDeadline(began.Add(patience))
		_, _ = fmt.Fprintf(conn, "SET caller:%d %s\r\nGET caller:%d\r\n", n, value, n)
		for _, want := range []string{"+OK", "$" + strconv.Itoa(len(value)), value} {
			line, err := in.ReadString('\n')
			if err != nil || strings.TrimRight(line, "\r\n") != want {
				return calls, fmt.Errorf("RESP: want %q, got %q, %w", want, line, err)
			}
		}
		reply, err := client.Get(fmt.Sprintf("http://%s/get?key=caller:%d", s.http, n))
		if err != nil {
			return calls, err
		}
		body, err := io.ReadAll(reply.Body)
		reply.Body.Close()
		if err != nil || string(body) != value {
			return calls, fmt.Errorf("HTTP: want %q, got %s, %q, %w", value, reply.Status, body, err)
		}
		took := int64(time.Since(began))
		for was := longest.Load(); took > was && !longest.CompareAndSwap(was, took); was = longest.Load() {
		}
	}
	return calls, nil
}

// abuses are what one connection does; whatever comes of it is right, as long as it ends with ctx.
var abuses = map[string]func(ctx context.Context, random *rand.Rand, conn net.Conn, isHTTP bool){
	"random bytes": func(ctx context.Context, random *rand.Rand, conn net.Conn, _ bool) {
		b := make([]byte, 1+random.IntN(4096))
		for ctx.Err() == nil {
			for i := range b {
				b[i] = byte(random.UintN(256))
			}
			if _, err := conn.Write(b); err != nil {
				return
			}
		}
	},
	"half a request": func(ctx context.Context, random *rand.Rand, conn net.Conn, isHTTP bool) {
		whole := "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000\r\n" + strings.Repeat("x", 1000) + "\r\n"
		if isHTTP {
			whole = "PUT /v1/keys/k HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n" + strings.Repeat("x", 1000)
		}
		_, _ = io.WriteString(conn, whole[:1+random.IntN(len(whole)-1)])
		linger(ctx, random)
	},
	"answers that nobody reads": func(ctx context.Context, _ *rand.Rand, conn net.Conn, isHTTP bool) {
		request := "*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n"
		if isHTTP {
			request = "GET /get?key=big HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
		}
		for ctx.Err() == nil {
			_ = conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			if _, err := io.WriteString(conn, strings.Repeat(request, 10)); err != nil && !os.IsTimeout(err) {
				return
			}
		}
	},
	"a header without an end": func(ctx context.Context, _ *rand.Rand, conn net.Conn, isHTTP bool) {
		piece := strings.Repeat("x", 64<<10)
		if isHTTP {
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
		}
		for sent := 0; sent < 1<<20 && ctx.Err() == nil; sent += len(piece) {
			if _, err := io.WriteString(conn, piece); err != nil {
				return
			}
		}
	},
	"lengths that are not true": func(ctx context.Context, random *rand.Rand, conn net.Conn, isHTTP bool) {
		lies := []string{"*0\r\n", "*-1\r\n", "*1\r\n$-1\r\n", "*1000000\r\n", "*2\r\n$3\r\nGET\r\n$536870912\r\n", "*99999999999\r\n", "*1\r\n$99999999999\r\n", "*1048576\r\n$1\r\nx\r\n"}
		if isHTTP {
			lies = []string{"PUT /v1/keys/k HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999\r\n\r\n", "POST /v1/mget HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffff0\r\n"}
		}
		_, _ = io.WriteString(conn, lies[random.IntN(len(lies))])
		linger(ctx, random)
	},
}

func linger(ctx context.Context, random *rand.Rand) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(random.IntN(2000)) * time.Millisecond):
	}
}

func TestWhoBehavesIsServedWhileOthersDoNot(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: this test needs a server")
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s := start(t)
	big, err := http.NewRequest(http.MethodPut, "http://"+s.http+"/v1/keys/big", strings.NewReader(strings.Repeat("x", 1<<20)))
	require.NoError(t, err)
	reply, err := http.DefaultClient.Do(big)
	require.NoError(t, err)
	reply.Body.Close()
	require.Equal(t, http.StatusNoContent, reply.StatusCode)
	http.DefaultClient.CloseIdleConnections()

	goroutines, descriptors := s.gauge("go_goroutines"), s.gauge("process_open_fds")
	var silent []net.Conn
	for i := range *idle {
		conn, err := net.Dial("tcp", []string{s.resp, s.http}[i%2])
		require.NoError(t, err, "the %dth", i)
		silent = append(silent, conn)
	}
	ctx, end := context.WithTimeout(t.Context(), *howLong)
	defer end()
	var all sync.WaitGroup
	var attacks, calls, longest atomic.Int64
	for name, abuse := range abuses {
		for i := range 4 {
			random := rand.New(rand.NewPCG(seed, uint64(i)+uint64(len(name))<<8))
			isHTTP := i%2 == 0
			all.Go(func() { // ends with ctx
				for ctx.Err() == nil {
					conn, err := net.DialTimeout("tcp", map[bool]string{true: s.http, false: s.resp}[isHTTP], patience)
					if err != nil {
						t.Errorf("%s: it accepts no connection: %v", name, err)
						return
					}
					attacks.Add(1)
					abuse(ctx, random, conn, isHTTP)
					conn.Close()
				}
			})
		}
	}
	for n := range 4 {
		all.Go(func() { // ends with ctx
			made, err := s.caller(ctx, n, &longest)
			calls.Add(int64(made))
			if err != nil {
				t.Errorf("caller %d, after %d calls: %v", n, made, err)
			}
		})
	}
	all.Wait()
	select {
	case <-s.exited:
		t.Fatalf("it has ended: %v", s.cmd.ProcessState)
	default:
	}
	t.Logf("%d silent connections, %d others that were abused, %d calls that were right, the longest took %v; %.0f MiB resident", len(silent), attacks.Load(),
		calls.Load(), time.Duration(longest.Load()).Round(time.Millisecond), s.gauge("process_resident_memory_bytes")/(1<<20))
	require.Positive(t, calls.Load())
	for _, conn := range slices.Backward(silent) {
		conn.Close()
	}
	var left, open float64
	for over := time.Now().Add(patience); time.Now().Before(over); time.Sleep(10 * time.Millisecond) {
		// Its own connections to Redis and the runtime's helpers vary by a few.
		if left, open = s.gauge("go_goroutines"), s.gauge("process_open_fds"); left <= goroutines+5 && open <= descriptors+5 {
			return
		}
	}
	t.Fatalf("%v goroutines and %v descriptors are left, of %v and %v before", left, open, goroutines, descriptors)
}

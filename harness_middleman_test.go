package aside_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
)

// middleman is what may stand between a client and Redis and speaks its protocol: it sees every
// command, may answer it itself, and may lose pushes or deliver them late. Safe for concurrent use.
type middleman struct {
	t        testing.TB
	listener net.Listener

	mu       sync.Mutex
	upstream string
	answer   func(command []string) (reply string, ok bool) // instead of Redis; nil: nothing is
	drop     bool                                           // pushes
	late     time.Duration                                  // likewise
	probed   time.Time                                      // when the latest probe ended, of what is known
	probes   chan struct{}                                  // closed when more is known; nil: nobody tells
	dials    int
	conns    map[net.Conn]bool
}

func newMiddleman(t testing.TB, upstream string) *middleman {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b := &middleman{t: t, listener: listener, upstream: upstream, conns: make(map[net.Conn]bool)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { b.serve(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		b.mu.Lock()
		for conn := range b.conns {
			conn.Close()
		}
		b.mu.Unlock()
		wg.Wait()
	})
	return b
}

func (b *middleman) Addr() string { return b.listener.Addr().String() }

func (b *middleman) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

// observer is for the client of b. With it a late push of a probe key is delivered only when the probe
// that it belongs to has ended. A delay alone would not do: where the process does not run for as long,
// the prober finds both the answer and the push when it looks.
func (b *middleman) observer() aside.Observer {
	b.set(func() { b.probes = make(chan struct{}) })
	return aside.ObserverFunc(func(_ context.Context, e aside.Event) {
		if e.Kind == aside.EventProbe {
			b.set(func() {
				b.probed = e.At
				close(b.probes)
				b.probes = make(chan struct{})
			})
		}
	})
}

// awaitProbed waits until a probe has ended after a push came, or the client is gone. Without an
// observer it does not wait.
func (b *middleman) awaitProbed(came time.Time, gone <-chan struct{}) {
	for {
		b.mu.Lock()
		probed, more := b.probed, b.probes
		b.mu.Unlock()
		if more == nil || probed.After(came) {
			return
		}
		select {
		case <-more:
		case <-gone:
			return
		}
	}
}

func (b *middleman) serve(client net.Conn) {
	b.mu.Lock()
	b.dials++
	b.conns[client] = true
	upstream := b.upstream
	b.mu.Unlock()
	server, err := net.Dial("tcp", upstream)
	if err != nil {
		client.Close()
		return
	}
	b.set(func() { b.conns[server] = true })
	var (
		mu    sync.Mutex
		queue []string // replies of our own, or "" for one of Redis
		after sync.WaitGroup
		gone  = make(chan struct{}) // closed when the client has left
	)
	flush := func() { // our own replies that are due; mu is held
		for len(queue) > 0 && queue[0] != "" {
			_, _ = io.WriteString(client, queue[0])
			queue = queue[1:]
		}
	}
	after.Go(func() {
		defer client.Close()
		for in := bufio.NewReader(server); ; {
			frame, err := readFrame(in)
			if err != nil {
				return
			}
			if frame[0] == '>' {
				b.mu.Lock()
				drop, late := b.drop, b.late
				b.mu.Unlock()
				came := time.Now()
				switch {
				case drop:
				case late > 0:
					after.Go(func() { // ends with its push, or the connection
						time.Sleep(late)
						if strings.Contains(frame, "aside:probe") {
							b.awaitProbed(came, gone)
						}
						mu.Lock()
						defer mu.Unlock()
						_, _ = io.WriteString(client, frame)
					})
				default:
					mu.Lock()
					_, _ = io.WriteString(client, frame)
					mu.Unlock()
				}
				continue
			}
			mu.Lock()
			_, _ = io.WriteString(client, frame)
			if len(queue) > 0 {
				queue = queue[1:]
			}
			flush()
			mu.Unlock()
		}
	})
	for in := bufio.NewReader(client); ; {
		frame, err := readFrame(in)
		if err != nil {
			break
		}
		b.mu.Lock()
		answer := b.answer
		b.mu.Unlock()
		if answer != nil {
			if reply, ok := answer(words(frame)); ok {
				mu.Lock()
				queue = append(queue, reply)
				flush()
				mu.Unlock()
				continue
			}
		}
		mu.Lock()
		queue = append(queue, "")
		mu.Unlock()
		_, _ = io.WriteString(server, frame)
	}
	server.Close()
	close(gone)
	after.Wait()
	b.set(func() { delete(b.conns, client); delete(b.conns, server) })
}

// readFrame reads one value of RESP as it stands.
func readFrame(in *bufio.Reader) (string, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return "", err
	}
	n, _ := strconv.Atoi(strings.TrimSpace(line[1:]))
	switch line[0] {
	case '$', '=', '!':
		if n < 0 {
			return line, nil
		}
		payload := make([]byte, n+2)
		_, err := io.ReadFull(in, payload)
		return line + string(payload), err
	case '%', '|':
		n *= 2
	case '*', '~', '>':
	default:
		return line, nil
	}
	for range n {
		part, err := readFrame(in)
		if err != nil {
			return "", err
		}
		line += part
	}
	return line, nil
}

// words are the strings of a command.
func words(frame string) (all []string) {
	lines := strings.Split(frame, "\r\n")
	for i := 2; i < len(lines); i += 2 {
		all = append(all, lines[i])
	}
	return all
}

// front answers PING and TIME itself, as a proxy may whose Redis is gone, and everything else by an
// error of its own.
func front(command []string) (string, bool) {
	switch strings.ToUpper(command[0]) {
	case "HELLO", "CLIENT", "CLUSTER":
		return "", false
	case "PING":
		return "+PONG\r\n", true
	case "TIME":
		now := time.Now()
		seconds, micros := fmt.Sprint(now.Unix()), fmt.Sprint(now.Nanosecond()/1000)
		return fmt.Sprintf("*2\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(seconds), seconds, len(micros), micros), true
	}
	return "-ERR upstream failure\r\n", true
}

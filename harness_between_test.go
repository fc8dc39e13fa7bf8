package aside_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/faultproxy"
)

// between stands between a client and one or more servers, command by command, as proxies do that
// understand Redis. route is told each command and says which of the servers gets it, or what it is
// answered instead.
func between(t testing.TB, route func(args []string) (server int, answer string), servers ...string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", faultproxy.ReservePort(t)))
	require.NoError(t, err)
	var all sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	keep := func(conn net.Conn) bool {
		mu.Lock()
		defer mu.Unlock()
		if open == nil {
			_ = conn.Close()
			return false
		}
		open[conn] = true
		return true
	}
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for conn := range open {
			_ = conn.Close()
		}
		open = nil
		mu.Unlock()
		all.Wait()
	})
	all.Go(func() { // ends with the listener
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			if !keep(client) {
				return
			}
			all.Go(func() { // ends with its connection
				defer client.Close()
				var writing sync.Mutex
				ups := make([]net.Conn, len(servers))
				answered := make(chan error)
				gone := make(chan struct{})
				defer close(gone)
				commands := bufio.NewReader(client)
				for {
					raw, args, err := readValue(commands)
					if err != nil {
						break
					}
					if len(args) == 0 { // an inline command, as a look at a server that cannot be reached sends
						args = append(strings.Fields(string(raw)), "")
					}
					i, answer := route(args)
					if answer != "" {
						writing.Lock()
						_, _ = io.WriteString(client, answer)
						writing.Unlock()
						continue
					}
					if ups[i] == nil {
						up, err := net.Dial("tcp", servers[i])
						if err != nil || !keep(up) {
							return
						}
						defer up.Close()
						ups[i] = up
						all.Go(func() { // ends with its connection
							replies := bufio.NewReader(up)
							for {
								reply, _, err := readValue(replies)
								if err == nil {
									writing.Lock()
									_, err = client.Write(reply)
									writing.Unlock()
								}
								if err == nil && reply[0] == '>' {
									continue
								}
								select {
								case answered <- err:
								case <-gone:
									return
								}
								if err != nil {
									_ = client.Close()
									return
								}
							}
						})
					}
					if _, err := ups[i].Write(raw); err != nil {
						return
					}
					if err := <-answered; err != nil {
						return
					}
				}
			})
		}
	})
	return l.Addr().String()
}

// readValue reads one RESP value, as it is, and the strings in it.
func readValue(r *bufio.Reader) (raw []byte, texts []string, err error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return nil, nil, err
	}
	raw = line
	n, _ := strconv.Atoi(string(bytes.TrimSpace(line[1:])))
	switch line[0] {
	case '$', '=', '!':
		if n < 0 {
			return raw, nil, nil
		}
		body := make([]byte, n+2)
		_, err := io.ReadFull(r, body)
		return append(raw, body...), []string{string(body[:n])}, err
	case '%', '|':
		n *= 2
	case '*', '~', '>':
	default:
		return raw, nil, nil
	}
	if line[0] == '|' {
		n++
	}
	for range n {
		more, inner, err := readValue(r)
		if err != nil {
			return nil, nil, err
		}
		raw, texts = append(raw, more...), append(texts, inner...)
	}
	return raw, texts, nil
}

// verb is the name of a command, in capitals.
func verb(args []string) string { return strings.ToUpper(args[0]) }

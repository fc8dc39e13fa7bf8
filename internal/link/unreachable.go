package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/redaside/aside/internal/reason"
)

const hintEvery = 10 * time.Second // between looks at a server that cannot be reached

// dialTimeout is the default bound of a dial, the handshake of TLS included.
func dialTimeout(secure *tls.Config) time.Duration {
	if secure != nil {
		return defaultTLSTimeout
	}
	return defaultDialTimeout
}

// unreachable says why Redis cannot be reached so that somebody can mend it: with the address, and
// with what a look at it shows where the error alone does not tell. rueidis says "EOF" where the
// server has too many clients, and "context deadline exceeded" where it does not speak TLS.
func (l *Link) unreachable(err error, hint string) error {
	where := strings.Join(l.opt.Redis.InitAddress, ", ")
	if errors.Is(err, ErrClosed) {
		return err
	}
	if _, reply := replyOf(err); hint != "" && !reply {
		return fmt.Errorf("%s: %w: %s", where, reason.Of(err), hint)
	}
	for _, addr := range l.opt.Redis.InitAddress {
		if strings.Contains(err.Error(), addr) {
			return err
		}
	}
	return fmt.Errorf("%s: %w", where, reason.Of(err))
}

// hint looks at the first address; "" if the error says it all, or nothing is to be seen there.
func (l *Link) hint(err error) string {
	o := l.baseOption()
	if _, reply := replyOf(err); reply || errors.Is(err, ErrClosed) {
		return ""
	}
	dialer, secure, where := &o.Dialer, o.TLSConfig, "Options.Redis"
	if o.Sentinel.MasterSet != "" {
		dialer, secure, where = &o.Sentinel.Dialer, o.Sentinel.TLSConfig, "Options.Redis.Sentinel"
	}
	ctx, cancel := context.WithTimeout(l.closing, dialer.Timeout)
	defer cancel()
	dial := l.plainDialer(o)
	conn, dialErr := dial(ctx, o.InitAddress[0], dialer, nil)
	if dialErr != nil {
		return ""
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(dialer.Timeout))
	if secure == nil {
		if said := firstWords(conn, ""); strings.HasPrefix(said, "-") {
			return "the server says: " + strings.TrimSpace(said[1:])
		}
		_ = conn.SetDeadline(time.Now().Add(dialer.Timeout))
		if speaksTLS(ctx, conn) {
			return "the server speaks TLS there: set " + where + ".TLSConfig (rediss:// in a url), or name its plain port"
		}
		return ""
	}
	if said := firstWords(conn, "PING\r\n"); strings.HasPrefix(said, "+") || strings.HasPrefix(said, "-") {
		return "the server speaks no TLS there: leave " + where + ".TLSConfig unset (redis:// in a url), or name its TLS port"
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Sprintf("a TLS handshake did not end within %v: raise %s.Dialer.Timeout", dialer.Timeout, where)
	}
	return ""
}

// firstWords sends what it is given and returns what comes first, if it comes soon.
func firstWords(conn net.Conn, words string) string {
	if words == "" { // what a server says unasked, it says at once
		_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	} else if _, err := conn.Write([]byte(words)); err != nil {
		return ""
	}
	var room [256]byte
	n, _ := conn.Read(room[:])
	return string(room[:n])
}

// speaksTLS reports whether the other end answers a handshake, be it by refusing it.
func speaksTLS(ctx context.Context, conn net.Conn) bool {
	err := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(ctx) // nothing is sent: it is to be known whether it is TLS
	_, alert := errors.AsType[tls.AlertError](err)
	var remote *net.OpError
	return err == nil || alert || errors.As(err, &remote) && remote.Op == "remote error"
}

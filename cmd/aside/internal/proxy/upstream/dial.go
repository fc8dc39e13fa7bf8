package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// Bytes of the buffers of connections.
const (
	sharedBuffer = 64 << 10
	ownBuffer    = 8 << 10
)

// Options says where Redis is, and how long to wait for it. It is copied by New.
type Options struct {
	// Redis is what the library's client connects by: TLS, user, password, database.
	Redis rueidis.ClientOption

	// Address returns the address of the server that takes writes; "" if that is not known now. It
	// is not asked in a cluster.
	Address func() string

	// Nodes returns addresses of nodes of the Redis Cluster that there is, not necessarily of all;
	// none where Redis is no cluster. nil: it is none.
	Nodes func() []string

	// Up reports whether it makes sense to wait for the node of a Redis Cluster at an address. nil:
	// always.
	Up func(address string) bool

	// Plain reports whether there is nothing to be known of a command but its keys. It is asked once
	// for each of the server's commands. nil: there is more of all.
	Plain func(c *Command) bool

	// DialTimeout is how long a connection may take until it has logged in.
	DialTimeout time.Duration

	// WriteTimeout is how long Redis may take no byte of what it is sent.
	WriteTimeout time.Duration

	// MostOwn is how many connections of clients' own there may be, each of which takes 1 of Open.
	MostOwn int
	Open    *proxy.Budget
}

// ErrNotSent means that Redis has not got the command: nothing was done.
var ErrNotSent = errors.New("upstream: Redis cannot be reached")

// ErrLost means that Redis may have got the command and that its reply is missing: it may or may
// not be done.
var ErrLost = errors.New("upstream: Redis has not answered")

// errNoAddress is why nothing can be dialed while nobody knows where the primary is.
var errNoAddress = errors.New("no server that takes writes is known")

// dialed is a connection that has logged in and speaks a version of the protocol.
type dialed struct {
	net.Conn
	frames  frameReader
	address string // that was dialed
	id      int64  // as CLIENT ID says it
}

// dial connects to the server at an address; "": the one that takes writes now.
func (o *Options) dial(ctx context.Context, address string, protocol, buffer int) (_ *dialed, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.DialTimeout)
	defer cancel()
	if address == "" {
		address = o.Address()
	}
	if address == "" {
		return nil, errNoAddress
	}
	dialer := &net.Dialer{Timeout: o.DialTimeout, KeepAlive: o.Redis.Dialer.KeepAlive}
	var nc net.Conn
	switch {
	case o.Redis.DialCtxFn != nil:
		nc, err = o.Redis.DialCtxFn(ctx, address, dialer, o.Redis.TLSConfig)
	case o.Redis.TLSConfig != nil:
		nc, err = (&tls.Dialer{NetDialer: dialer, Config: o.Redis.TLSConfig}).DialContext(ctx, "tcp", address)
	default:
		nc, err = dialer.DialContext(ctx, "tcp", address)
	}
	if err != nil {
		return nil, err
	}
	d := &dialed{Conn: nc, frames: frameReader{Reader: bufio.NewReaderSize(nc, buffer)}, address: address}
	defer func() {
		if err != nil {
			nc.Close()
		}
	}()
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := o.greet(d, protocol); err != nil {
		return nil, err
	}
	if !stop() {
		return nil, ctx.Err()
	}
	return d, nil
}

// elsewhere reports whether another server than that of d takes writes now: after a failover by
// Sentinel the old one may do so for a while, too, and what it takes is lost.
func (o *Options) elsewhere(d *dialed) bool {
	now := o.Address()
	return now != "" && now != d.address
}

// greet logs in, and selects protocol and database.
func (o *Options) greet(d *dialed, protocol int) error {
	user, password := o.Redis.Username, o.Redis.Password
	if o.Redis.AuthCredentialsFn != nil {
		account, err := o.Redis.AuthCredentialsFn(rueidis.AuthCredentialsContext{Address: d.RemoteAddr()})
		if err != nil {
			return err
		}
		user, password = account.Username, account.Password
	}
	hello := []string{"HELLO", strconv.Itoa(protocol)}
	if user != "" || password != "" {
		if user == "" {
			user = "default"
		}
		hello = append(hello, "AUTH", user, password)
	}
	commands := [][]string{hello}
	if o.Redis.SelectDB != 0 {
		commands = append(commands, []string{"SELECT", strconv.Itoa(o.Redis.SelectDB)})
	}
	var request []byte
	for _, command := range commands {
		request = AppendCommand(request, command)
	}
	if _, err := d.Write(request); err != nil {
		return err
	}
	for _, command := range commands {
		reply, kind, _, err := d.frames.next(nil)
		if err != nil {
			return err
		}
		if kind == '-' || kind == '!' {
			return fmt.Errorf("Redis refuses %s: %w", command[0], Refused(reply))
		}
		if command[0] == "HELLO" {
			value, _, err := decode(reply)
			if err != nil {
				return err
			}
			d.id, _ = mapOf(value)["id"].(int64)
		}
	}
	return nil
}

// ask sends one command and returns its reply.
func (d *dialed) ask(args ...string) ([]byte, error) {
	if _, err := d.Write(AppendCommand(nil, args)); err != nil {
		return nil, err
	}
	reply, _, _, err := d.frames.next(nil)
	return reply, err
}

package resp

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/cmd/aside/internal/proxy/upstream"
)

// Options says how a Server behaves. The zero value is usable. It is copied by New.
type Options struct {
	// Password is what AUTH and HELLO … AUTH must give, as the user "default" or without a user.
	// Defaults to none: everybody is let in. See Server.SetPassword.
	Password string

	// MaxValueBytes is the longest string that a client may send. A longer one is read away and
	// answered with an error; beyond 512 MiB it ends the connection. Defaults to 8 MiB.
	MaxValueBytes int

	// MaxKeyBytes is the longest key. Defaults to 1 KiB.
	MaxKeyBytes int

	// MaxRequestBytes is how much one request may hold in sum, 16 bytes for each of its strings
	// included; and how much of a pipeline is read ahead of replies that its client does not take
	// yet. A larger request is read away and answered with an error; beyond 1 GiB it ends the
	// connection. Defaults to 64 MiB, or twice MaxValueBytes where that is more. All connections
	// together hold what the Store's Receiving says.
	MaxRequestBytes int

	// MaxConnections is how many clients are served at once; the next is told so and sent away.
	// Defaults to 20,000.
	MaxConnections int

	// IdleTimeout ends connections that send nothing for so long. Defaults to 0: never.
	IdleTimeout time.Duration

	// RequestTimeout is how long one command may take. Defaults to 5 seconds.
	RequestTimeout time.Duration

	// ReceiveTimeout is how long a request that has begun may take to arrive, before its connection
	// is ended. Defaults to 30 seconds.
	ReceiveTimeout time.Duration

	// WriteTimeout ends the connections of clients that take less than 16 KiB of what they are sent
	// in so long, and send nothing either. Defaults to 30 seconds.
	WriteTimeout time.Duration

	// TLS, if there is one, is what connections are encrypted by. Defaults to none.
	TLS *tls.Config

	// Logger is told of panics, and of listeners that fail; never a key's or value's content.
	// Defaults to slog.Default().
	Logger *slog.Logger

	// DB is the number of the database that the Store's Redis client has selected: the one that
	// SELECT accepts. Defaults to 0.
	DB int

	// Redis is how the Store's client connects to Redis, if commands that are not served here are to
	// be passed on to it. nil: they are unknown. Defaults to nil.
	Redis *rueidis.ClientOption

	// Deny are commands that are not passed on: upstream.NewDeny reads them. Defaults to none.
	Deny []string

	// CheckApp counts, while Redis is well, the commands that an outage would refuse, for Checked. It
	// changes nothing else. Defaults to false.
	CheckApp bool

	// LocalAnswers has commands that are kept as operations while Redis is away answer by what this
	// proxy knows, where that is not all. Defaults to false: they are refused then.
	LocalAnswers bool

	// KnownKeys has SCAN, KEYS, RANDOMKEY and DBSIZE answer, while Redis is away, by the keys that this
	// proxy knows to be there. Defaults to false: they are refused then.
	KnownKeys bool

	// Collections has hashes, sets and lists that clients read remembered, as a whole or by name, to answer from that
	// while Redis is away. Defaults to false.
	Collections bool

	// Observe is told of each command, of those of a batch that are alike at once. The name is in upper
	// case, and "UNKNOWN" for what is neither served nor passed on. It is called on the connections'
	// goroutines, by many at once. Defaults to none.
	Observe func(proxy.Answered)
}

func (o Options) withDefaults() Options {
	o.MaxValueBytes = cmp.Or(o.MaxValueBytes, 8<<20)
	o.MaxKeyBytes = cmp.Or(o.MaxKeyBytes, 1<<10)
	o.MaxRequestBytes = cmp.Or(o.MaxRequestBytes, max(64<<20, 2*o.MaxValueBytes))
	o.MaxConnections = cmp.Or(o.MaxConnections, 20_000)
	o.RequestTimeout = cmp.Or(o.RequestTimeout, 5*time.Second)
	o.ReceiveTimeout = cmp.Or(o.ReceiveTimeout, 30*time.Second)
	o.WriteTimeout = cmp.Or(o.WriteTimeout, 30*time.Second)
	o.Logger = cmp.Or(o.Logger, slog.Default())
	return o
}

// Validate reports every setting that cannot be right, at once; nil if there is none. New panics
// where it does not.
func (o Options) Validate() error {
	var errs []error
	for _, n := range []struct {
		name  string
		value int
	}{
		{"MaxValueBytes", o.MaxValueBytes}, {"MaxKeyBytes", o.MaxKeyBytes}, {"MaxRequestBytes", o.MaxRequestBytes},
		{"MaxConnections", o.MaxConnections}, {"DB", o.DB},
	} {
		if n.value < 0 {
			errs = append(errs, fmt.Errorf("resp: Options.%s is %d: it must not be negative; 0 for the default", n.name, n.value))
		}
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"IdleTimeout", o.IdleTimeout}, {"RequestTimeout", o.RequestTimeout}, {"ReceiveTimeout", o.ReceiveTimeout}, {"WriteTimeout", o.WriteTimeout}} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("resp: Options.%s is %v: it must not be negative; 0 for the default", d.name, d.value))
		}
	}
	if _, err := upstream.NewDeny(o.Deny); err != nil {
		errs = append(errs, fmt.Errorf("resp: Options.Deny: %w", err))
	}
	return errors.Join(errs...)
}

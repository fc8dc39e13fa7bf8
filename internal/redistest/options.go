package redistest

import (
	"crypto/tls"
	"strings"
)

// Option changes how a server is started.
type Option func(*settings)

type settings struct {
	args      []string
	password  string
	tls       bool
	clientTLS *tls.Config // nil: plain TCP
	replicas  int         // of each primary in a Cluster
	related   bool        // other servers connect to it, at Addr
}

func newSettings(options []Option) (s settings) {
	for _, option := range options {
		option(&s)
	}
	return s
}

// WithArgs adds to the server's command line: WithArgs("--maxmemory", "1mb"). The last of two that
// contradict wins. An external server gets them by CONFIG SET and its own back when the test ends;
// what it refuses is a Skip.
func WithArgs(args ...string) Option {
	return func(s *settings) { s.args = append(s.args, args...) }
}

// WithPassword makes the server ask for a password.
func WithPassword(password string) Option {
	return func(s *settings) {
		s.password = password
		s.args = append(s.args, "--requirepass", password, "--masterauth", password)
	}
}

// WithTLS makes the server speak TLS only, with a certificate that TLSConfig trusts. It needs a
// binary.
func WithTLS() Option {
	return func(s *settings) { s.tls = true }
}

// WithReplication is for servers that the test makes replicas of each other: they must reach each
// other at Addr. It needs a binary.
func WithReplication() Option {
	return func(s *settings) { s.related = true }
}

// WithReplicas gives each primary of a Cluster n replicas. The default is none.
func WithReplicas(n int) Option {
	return func(s *settings) { s.replicas = n }
}

// directives are the arguments as a configuration file would have them: a name, and its values in
// one string.
func (s settings) directives() (list [][2]string) {
	for _, arg := range s.args {
		if name, ok := strings.CutPrefix(arg, "--"); ok {
			list = append(list, [2]string{name})
		} else if len(list) > 0 {
			last := &list[len(list)-1][1]
			*last = strings.TrimSpace(*last + " " + arg)
		}
	}
	return list
}

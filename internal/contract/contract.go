// Package contract is what aside promises of its main job, as a suite that runs on servers of any
// kind: what a Get costs, who loads and who waits, what a write does to them, and what holds while
// Redis is away and when it is back.
//
//	func TestTheMainJob(t *testing.T) { contract.Run(t, contract.Redis(redistest.Start)) }
//
// It uses nothing of aside but what users see. Each rule has a subtest and a server of its own. A
// failure says which rule was broken, and what users would notice.
package contract

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/redaside/aside/internal/redistest"
)

// Start gives the test an empty server of its own, and ends it with the test.
type Start func(t testing.TB) Server

// Server is one server. What a method cannot do fails the test.
type Server interface {
	// Addr is the host:port for clients. It outlives Kill and Restart.
	Addr() string
	// Do sends one command on a connection that is none of a client's, and returns the reply: a
	// string, an int64, nil, or an []any of these.
	Do(args ...any) any
	// Kill breaks connections and refuses dials until Restart, which leaves nothing of the data.
	Kill()
	Restart()
	// Freeze lets the server accept and never answer, until Thaw.
	Freeze()
	Thaw()
	// Cannot tells why the server cannot do that; "" if it can.
	Cannot(what Capability) (why string)
}

// Capability is what not every server can do.
type Capability string

// What a rule may need of its server.
const (
	Killed Capability = "be killed" // Kill and Restart
	Frozen Capability = "be frozen" // Freeze and Thaw
	// QuietFills is to push a fill to all but the client that made it. Without it a client reads
	// back what it has filled, so that some rules allow a read more; none is left out.
	QuietFills Capability = "keep a fill from being pushed back"
)

// rule is one rule of the contract.
type rule struct {
	name  string       // what holds
	why   string       // what users notice where it does not
	needs []Capability // of its server
	check func(t *testing.T, start Start)
}

// Run checks that aside keeps its promises on the servers of start, all rules beside each other: each has
// servers of its own, and most of them wait. A rule that these cannot check is skipped, which is a
// failure where ASIDE_NO_SKIP=1.
func Run(t *testing.T, start Start) {
	t.Helper()
	for _, r := range rules() {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("The rule: %s.\nWhy: %s", r.name, r.why)
				}
			})
			r.check(t, able(start, r.needs))
		})
	}
}

// able is start for a rule with these needs.
func able(start Start, needs []Capability) Start {
	return func(t testing.TB) Server {
		t.Helper()
		s := start(t)
		for _, what := range needs {
			if why := s.Cannot(what); why != "" {
				redistest.Skip(t, fmt.Sprintf("a server that cannot %s (%s) cannot show this", what, why))
			}
		}
		return limited{s, t, needs}
	}
}

// limited is a server for a rule that keeps to what it has said that it needs: another server may
// not be able to do more.
type limited struct {
	Server
	t     testing.TB
	needs []Capability
}

func (l limited) Kill()    { l.t.Helper(); l.said(Killed); l.Server.Kill() }
func (l limited) Restart() { l.t.Helper(); l.said(Killed); l.Server.Restart() }
func (l limited) Freeze()  { l.t.Helper(); l.said(Frozen); l.Server.Freeze() }
func (l limited) Thaw()    { l.t.Helper(); l.said(Frozen); l.Server.Thaw() }

func (l limited) said(what Capability) {
	l.t.Helper()
	if !slices.Contains(l.needs, what) {
		l.t.Errorf("this rule does not say that its server has to %s", what)
	}
}

// Redis makes a Start of one of redistest's.
func Redis(start func(testing.TB, ...redistest.Option) *redistest.Server) Start {
	return func(t testing.TB) Server {
		t.Helper()
		return server{start(t)}
	}
}

type server struct{ *redistest.Server }

func (s server) Cannot(what Capability) (why string) {
	// A script cannot ask an older one for GETEX, which reads and tracks without a push.
	if what == QuietFills && s.Name() == "redis" && (strings.HasPrefix(s.Version(), "6.0.") || strings.HasPrefix(s.Version(), "6.1.")) {
		return "GETEX came with Redis 6.2"
	}
	return ""
}

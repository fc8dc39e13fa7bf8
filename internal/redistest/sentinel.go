package redistest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	masterSet = "primary"
	sentinels = 3
)

// Sentinel is a primary, two replicas, and three Sentinels that watch them. Two of these must agree
// that the primary is down, which they do after half a second, before they make a replica the new
// one.
type Sentinel struct {
	t         testing.TB
	servers   []*Server // immutable after StartSentinel
	sentinels []*Server // likewise
}

// StartSentinel starts all six and returns when all know each other.
// It needs a binary, whatever the backend; the test is skipped without.
func StartSentinel(t testing.TB) *Sentinel {
	t.Helper()
	notShort(t)
	program := needBinary(t, "a Sentinel")
	s := &Sentinel{t: t}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("redistest: servers became a primary %d times", s.Promotions())
		}
	})
	primary := startBinary(t, program, settings{})
	host, port, _ := strings.Cut(primary.Addr(), ":")
	s.servers = []*Server{primary}
	for range 2 {
		s.servers = append(s.servers, startBinary(t, program, settings{args: []string{"--replicaof", host, port}}))
	}
	for _, server := range s.servers { // a Sentinel asks for replicas once, and then not again for ten seconds
		eventually(t, "replication", func() bool {
			role, err := server.TryDo("ROLE")
			return err == nil && inSync(role)
		})
	}
	for range sentinels {
		s.sentinels = append(s.sentinels, startSentinel(t, program, host, port))
	}
	s.await("know the others", func(state map[string]string) bool {
		return state["flags"] == "master" && state["num-slaves"] == "2" &&
			state["num-other-sentinels"] == fmt.Sprint(sentinels-1)
	})
	return s
}

func startSentinel(t testing.TB, program, host, port string) *Server {
	t.Helper()
	b := &binary{program: program, dir: t.TempDir(), settings: settings{args: []string{"--sentinel"}}}
	b.config = filepath.Join(b.dir, "sentinel.conf") // it rewrites the file
	config := fmt.Sprintf(`sentinel monitor %[1]s %[2]s %[3]s 2
sentinel down-after-milliseconds %[1]s 1000
sentinel failover-timeout %[1]s 3000
`, masterSet, host, port)
	if err := os.WriteFile(b.config, []byte(config), 0o600); err != nil {
		t.Fatalf("redistest: %v", err)
	}
	return b.serve(t)
}

// Addrs are the addresses of the Sentinels.
func (s *Sentinel) Addrs() []string {
	addrs := make([]string, len(s.sentinels))
	for i, sentinel := range s.sentinels {
		addrs[i] = sentinel.Addr()
	}
	return addrs
}

// MasterSet is the name under which the Sentinels know the primary.
func (s *Sentinel) MasterSet() string { return masterSet }

// Sentinel is Sentinel i of Addrs.
func (s *Sentinel) Sentinel(i int) *Server { return s.sentinels[i] }

// Primary is the server that the first Sentinel which answers says is the primary.
func (s *Sentinel) Primary() *Server {
	s.t.Helper()
	for _, sentinel := range s.sentinels {
		if addr := primaryAccordingTo(sentinel); addr != "" {
			for _, server := range s.servers {
				if server.Addr() == addr {
					return server
				}
			}
		}
	}
	s.t.Fatal("redistest: no Sentinel knows a primary")
	return nil
}

// Replicas are the servers that are not Primary.
func (s *Sentinel) Replicas() []*Server {
	s.t.Helper()
	primary := s.Primary()
	return slices.DeleteFunc(slices.Clone(s.servers), func(server *Server) bool { return server == primary })
}

// Failover has the Sentinels make a replica the primary, and returns when all of them say so and it
// takes writes. The old primary goes on as a replica; Kill it instead to see an election.
func (s *Sentinel) Failover() {
	s.t.Helper()
	old := s.Primary()
	s.sentinels[0].Do("SENTINEL", "FAILOVER", masterSet)
	s.AwaitFailover(old)
}

// promoted is what a server logs when it becomes the primary: Redis says MASTER, Valkey PRIMARY.
var promoted = regexp.MustCompile(`\b(MASTER|PRIMARY) MODE enabled`)

// Promotions is how often one of the servers was made the primary, by their logs. Sentinels whose
// machine is busy may do so twice in one failover: what the first one of these has acknowledged is
// lost then.
func (s *Sentinel) Promotions() (n int) {
	for _, server := range s.servers {
		if b, ok := server.backend.(*binary); ok {
			n += len(promoted.FindAllString(b.log.String(), -1))
		}
	}
	return n
}

// AwaitFailover waits until all Sentinels have another primary than old, and it takes writes.
func (s *Sentinel) AwaitFailover(old *Server) {
	s.t.Helper()
	eventually(s.t, "a new primary", func() bool {
		primary := s.Primary()
		for _, sentinel := range s.sentinels {
			if sentinel.isRunning() && primaryAccordingTo(sentinel) != primary.Addr() {
				return false
			}
		}
		if primary == old {
			return false
		}
		role, err := primary.TryDo("ROLE")
		return err == nil && role.([]any)[0] == "master"
	})
}

func primaryAccordingTo(sentinel *Server) (addr string) {
	if !sentinel.isRunning() {
		return ""
	}
	reply, _ := sentinel.TryDo("SENTINEL", "GET-MASTER-ADDR-BY-NAME", masterSet)
	if pair, ok := reply.([]any); ok && len(pair) == 2 {
		return fmt.Sprintf("%v:%v", pair[0], pair[1])
	}
	return ""
}

// await waits until each Sentinel's view of the primary is ok.
func (s *Sentinel) await(what string, ok func(state map[string]string) bool) {
	s.t.Helper()
	for i, sentinel := range s.sentinels {
		eventually(s.t, fmt.Sprintf("Sentinel %d to %s", i, what), func() bool {
			reply, _ := sentinel.TryDo("SENTINEL", "MASTER", masterSet)
			list, _ := reply.([]any) // name, value, name, value, …
			state := map[string]string{}
			for i := 0; i+1 < len(list); i += 2 {
				state[fmt.Sprint(list[i])] = fmt.Sprint(list[i+1])
			}
			return ok(state)
		})
	}
}

package redistest

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/redaside/aside/internal/faultproxy"
)

// external is a server that we did not start, behind a proxy that plays its outages.
type external struct {
	settings
	upstream string // immutable
	proxy    *faultproxy.Proxy
}

// The marker says that what is in an external server was left behind by us. It lies in the last of
// the usual sixteen databases, so that a test finds database 0 empty.
const (
	markerDatabase = 15
	markerKey      = "redistest: this server may be erased"
)

// theExternal is the one server at REDIS_ADDR and who has it.
var theExternal = struct {
	mu      sync.Mutex
	freed   *sync.Cond
	holder  string // name of the test that has it
	holders int    // Starts of that test and its subtests that have not been cleaned up
	server  *Server
}{}

func startExternal(t testing.TB, set settings) *Server {
	t.Helper()
	e := &theExternal
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.freed == nil {
		e.freed = sync.NewCond(&e.mu)
	}
	// A subtest must not wait for its parent, which waits for it.
	for e.holders > 0 && t.Name() != e.holder && !strings.HasPrefix(t.Name(), e.holder+"/") {
		e.freed.Wait()
	}
	e.holders++
	t.Cleanup(func() { // registered first, so it runs when all else is cleaned up
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.holders--; e.holders == 0 {
			e.server = nil
			e.freed.Broadcast()
		}
	})
	if e.holders > 1 && e.server != nil {
		if len(set.args) > 0 {
			Skip(t, "redistest: the external server is shared with an earlier Start of this test, which did not ask for "+
				strings.Join(set.args, " "))
		}
		return &Server{t: t, instance: e.server.instance}
	}
	e.holder = t.Name()
	upstream := os.Getenv("REDIS_ADDR")
	if upstream == "" {
		t.Fatal("redistest: ASIDE_BACKEND=external needs REDIS_ADDR")
	}
	x := &external{settings: set, upstream: upstream, proxy: faultproxy.New(t, upstream)}
	x.configure(t)
	e.server = newServer(t, set, x)
	return e.server
}

// configure empties the server and gives it the settings of this test, and undoes both when the
// test ends.
func (x *external) configure(t testing.TB) {
	t.Helper()
	plain := settings{} // the password is among the settings
	info, err := plain.info(x.upstream, "keyspace")
	if err != nil {
		t.Fatalf("redistest: REDIS_ADDR: %v", err)
	}
	if len(info) > 0 && !x.marked() {
		t.Fatalf("redistest: the server at REDIS_ADDR=%s has keys in it; tests would erase them. If they may be erased: "+
			"redis-cli FLUSHALL", x.upstream)
	}
	if err := x.erase(plain); err != nil {
		t.Fatalf("redistest: REDIS_ADDR: %v", err)
	}

	// One connection for all, because it stays authenticated whatever happens to the password
	// meanwhile.
	admin, err := plain.dial(x.upstream)
	if err != nil {
		t.Fatalf("redistest: REDIS_ADDR: %v", err)
	}
	defer admin.Close()
	var undo [][2]string
	t.Cleanup(func() {
		x.proxy.HealDropping()
		admin, err := x.dial(x.upstream)
		if err != nil {
			admin, err = plain.dial(x.upstream) // the password had not been set yet
		}
		if err == nil {
			defer admin.Close()
			_, err = admin.do("FLUSHALL")
			for _, d := range undo {
				_, setErr := admin.do("CONFIG", "SET", d[0], d[1])
				err = errors.Join(err, setErr)
			}
		}
		if err != nil {
			t.Errorf("redistest: cannot clean the server at REDIS_ADDR: %v", err)
		}
	})
	for _, d := range x.directives() {
		old, err := admin.do("CONFIG", "GET", d[0])
		if pair, ok := old.([]any); err == nil && ok && len(pair) == 2 {
			_, err = admin.do("CONFIG", "SET", d[0], d[1])
			undo = append([][2]string{{d[0], fmt.Sprint(pair[1])}}, undo...)
		} else if err == nil {
			err = errors.New("no such setting")
		}
		if err != nil {
			Skip(t, fmt.Sprintf("redistest: an external server does not take --%s %s: %v", d[0], d[1], err))
		}
	}
}

// marked is whether our marker is there. An error is a no.
func (x *external) marked() bool {
	c, err := settings{}.dial(x.upstream)
	if err != nil {
		return false
	}
	defer c.Close()
	if _, err = c.do("SELECT", markerDatabase); err != nil {
		return false
	}
	n, err := c.do("EXISTS", markerKey)
	return err == nil && n == int64(1)
}

// erase makes the server as a restart would leave it, and marks it as ours.
func (x *external) erase(set settings) error {
	c, err := set.dial(x.upstream)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err = c.do("FLUSHALL"); err != nil {
		return err
	}
	if _, err = c.do("SCRIPT", "FLUSH"); err != nil {
		return err
	}
	// A server with fewer databases, or with no room for a key, goes without the protection.
	if _, err = c.do("SELECT", markerDatabase); err == nil {
		_, _ = c.do("SET", markerKey, "1")
	}
	return nil
}

func (x *external) addr() string   { return x.proxy.Addr() }
func (x *external) direct() string { return x.upstream }
func (x *external) signals() bool  { return false }

func (x *external) freeze() error { x.proxy.BlackHole(); return nil }
func (x *external) thaw() error   { x.proxy.Heal(); return nil }
func (x *external) kill() error   { x.proxy.Refuse(); return nil }

func (x *external) start(empty bool) error {
	if empty {
		if err := x.erase(x.settings); err != nil {
			return err
		}
	}
	x.proxy.HealDropping()
	return nil
}

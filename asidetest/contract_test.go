package asidetest_test

import (
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/redaside/aside/internal/contract"
	"github.com/redaside/aside/internal/fakeredis"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"))
}

// The main job, on the server of asidetest: what holds on a real one holds on the fake. It is given
// a port, because the rules count round trips and break connections with a proxy in between.
func TestTheMainJob(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: outages take their time where there is a port")
	}
	contract.Run(t, startFake)
}

func startFake(t testing.TB) contract.Server {
	t.Helper()
	f := &fake{t: t, Server: fakeredis.New(), addr: "127.0.0.1:0"}
	t.Cleanup(f.Server.Close)
	f.listen()
	t.Cleanup(f.unlisten)
	return f
}

// fake is a server with a port.
type fake struct {
	*fakeredis.Server
	t        testing.TB
	addr     string
	listener net.Listener
	accepts  sync.WaitGroup
}

func (f *fake) listen() {
	f.t.Helper()
	listener, err := net.Listen("tcp", f.addr)
	require.NoError(f.t, err)
	f.listener, f.addr = listener, listener.Addr().String()
	f.accepts.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			f.Serve(conn)
		}
	})
}

func (f *fake) unlisten() {
	f.listener.Close()
	f.accepts.Wait()
}

func (f *fake) Addr() string { return f.addr }

func (f *fake) Do(args ...any) any {
	f.t.Helper()
	var texts []string
	for _, arg := range args {
		texts = append(texts, fmt.Sprint(arg))
	}
	answer, err := f.Server.Do(texts...)
	require.NoError(f.t, err, "%q", texts)
	return answer
}

func (f *fake) Kill() {
	f.unlisten()
	f.Down()
}

func (f *fake) Restart() {
	f.Server.Restart()
	f.listen()
}

func (f *fake) Thaw() { f.Up() }

func (f *fake) Cannot(contract.Capability) string { return "" }

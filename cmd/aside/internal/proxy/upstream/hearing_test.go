package upstream

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
)

// An id means something at one server only: at another it is somebody else's.
func TestAConnectionListensAtItsOwnServerOnly(t *testing.T) {
	server := redistest.Start(t)
	p := newTestPool(t, server)
	target, err := net.Dial("tcp", server.Addr())
	require.NoError(t, err)
	defer target.Close()
	_, err = target.Write([]byte("CLIENT ID\r\n"))
	require.NoError(t, err)
	var id int64
	_, err = fmt.Fscanf(target, ":%d\r\n", &id)
	require.NoError(t, err)
	_, info, _ := strings.Cut(do(t, p, 2, "INFO", "server"), "run_id:")
	run, _, _ := strings.Cut(info, "\r\n")
	for _, protocol := range []int{2, 3} {
		require.Nil(t, p.Hearing("", protocol))
		require.ErrorIs(t, p.Listen(testContext(t), "", protocol, "another", id, "target", always), errElsewhere)
		require.ErrorIs(t, p.Listen(testContext(t), "", protocol, "", id, "target", always), errElsewhere)
		require.ErrorContains(t, p.Listen(testContext(t), "", protocol, run, 1<<40, "target", always), "Redis refuses CLIENT TRACKING")
		require.False(t, p.Hears("", protocol, "target"))
		require.NoError(t, p.Listen(testContext(t), "", protocol, run, id, "target", always))
		require.True(t, p.Hears("", protocol, "target"))
		require.False(t, p.Hears("", protocol, "another"))
		h := p.Hearing("", protocol)
		before := time.Now()
		require.NoError(t, p.Prove("", protocol, always))
		require.True(t, h.Alive(before, 0))
		var b Batch
		b.Add([]string{"CLIENT", "CACHING", "YES"})
		b.Add([]string{"PING"})
		require.NoError(t, p.Do(testContext(t), protocol, &b, always))
		require.Same(t, h, b.Heard(1))
		require.True(t, b.Cached(0))
		require.False(t, b.Cached(1))
		require.Error(t, p.Listen(testContext(t), "", protocol, "another", id, "target", always))
		require.False(t, p.Hears("", protocol, "target"), "what is told there, nobody knows")
	}
}

// What is read in a Hearing counts no more once other things go on without a sign of life of its connection.
func TestAHearingIsAliveAsLongAsItsConnectionAnswers(t *testing.T) {
	h := &Hearing{}
	now := time.Now()
	h.answered.Store(int64(now.Sub(began)))
	require.True(t, h.Alive(now, 0))
	require.True(t, h.Alive(now.Add(time.Second), time.Second))
	require.False(t, h.Alive(now.Add(time.Second+1), time.Second))
}

func TestElementsAreThoseOfAnyKindOfList(t *testing.T) {
	for reply, want := range map[string][]string{
		"*0\r\n": {}, "*2\r\n$1\r\na\r\n$0\r\n\r\n": {"a", ""}, "%1\r\n$1\r\na\r\n$1\r\nb\r\n": {"a", "b"}, "~1\r\n$1\r\na\r\n": {"a"},
		"-ERR no\r\n": nil, "$1\r\na\r\n": nil, "*1\r\n:1\r\n": nil, "*1\r\n": nil,
	} {
		got, err := Elements([]byte(reply))
		require.Equal(t, want == nil, err != nil, "%q", reply)
		require.Equal(t, want, got, "%q", reply)
	}
}

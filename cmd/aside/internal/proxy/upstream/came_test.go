//go:build linux || darwin || freebsd || netbsd || openbsd

package upstream

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whether something has come on an idle connection is found out without waiting for it: a read with a deadline waits for a
// millisecond, which each transaction did.
func TestWhatHasComeIsSeenWithoutWaiting(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	connect := func() (ours, theirs net.Conn) {
		ours, err := net.Dial("tcp", listener.Addr().String())
		require.NoError(t, err)
		theirs, err = listener.Accept()
		require.NoError(t, err)
		t.Cleanup(func() { ours.Close(); theirs.Close() })
		return ours, theirs
	}
	ours, theirs := connect()
	require.True(t, nothingCame(ours))
	_, err = theirs.Write([]byte("x"))
	require.NoError(t, err)
	require.False(t, nothingCame(ours))
	one := make([]byte, 1)
	_, err = ours.Read(one)
	require.NoError(t, err)
	require.Equal(t, "x", string(one), "it was only looked at")
	require.True(t, nothingCame(ours))
	require.NoError(t, theirs.Close())
	require.False(t, nothingCame(ours))

	ours, _ = connect()
	require.NoError(t, ours.Close())
	require.False(t, nothingCame(ours))

	ours, _ = net.Pipe()
	defer ours.Close()
	require.False(t, nothingCame(ours), "nobody can tell")
}

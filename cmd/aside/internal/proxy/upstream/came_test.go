//go:build linux || darwin || freebsd || netbsd || openbsd

package upstream

import (
	"bufio"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// readCounted counts how often it is read.
type readCounted struct {
	*net.TCPConn

	reads int
}

func (c *readCounted) Read(buf []byte) (int, error) {
	c.reads++
	return c.TCPConn.Read(buf)
}

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
	counted := &readCounted{TCPConn: ours.(*net.TCPConn)}
	own := &Own{dialed: &dialed{Conn: counted, frames: frameReader{Reader: bufio.NewReader(counted)}}}
	require.True(t, own.quiet())
	require.Zero(t, counted.reads)
	_, err = theirs.Write([]byte("x"))
	require.NoError(t, err)
	require.False(t, nothingCame(ours))
	require.False(t, own.quiet())
	require.Equal(t, 1, counted.reads)
	_, err = theirs.Write([]byte("y"))
	require.NoError(t, err)
	one := make([]byte, 1)
	_, err = ours.Read(one)
	require.NoError(t, err)
	require.Equal(t, "y", string(one), "it was only looked at")
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

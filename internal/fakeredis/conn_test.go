package fakeredis

import (
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWritesWaitForNobody(t *testing.T) {
	a, b := pair()
	big := make([]byte, 8<<20)
	n, err := a.Write(big)
	require.NoError(t, err)
	require.Len(t, big, n)
	require.NoError(t, a.Close())
	got, err := io.ReadAll(b)
	require.NoError(t, err)
	require.Len(t, got, len(big), "what was written before the end can be read")
	_, err = b.Write([]byte("x"))
	require.ErrorIs(t, err, io.ErrClosedPipe)
	_, err = a.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = a.Write([]byte("x"))
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestAReadEndsWithItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair()
		began := time.Now()
		require.NoError(t, a.SetDeadline(began.Add(time.Minute)))
		_, err := a.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(began))

		require.NoError(t, a.SetDeadline(time.Now().Add(time.Minute)))
		require.NoError(t, a.SetDeadline(time.Time{}))
		go func() {
			time.Sleep(time.Hour)
			_, _ = b.Write([]byte("x"))
		}()
		n, err := a.Read(make([]byte, 1))
		require.NoError(t, err)
		require.Equal(t, 1, n)
		go func() {
			time.Sleep(time.Second)
			a.Close()
		}()
		_, err = a.Read(make([]byte, 1))
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

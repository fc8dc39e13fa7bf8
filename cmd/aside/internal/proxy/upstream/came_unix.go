//go:build linux || darwin || freebsd || netbsd || openbsd

package upstream

import (
	"errors"
	"net"
	"syscall"
)

// nothingCame reports, without waiting, that neither bytes nor the end of a connection have come. False: they have, or
// nobody can tell, as with TLS, which reads ahead.
func nothingCame(nc net.Conn) (nothing bool) {
	socket, ok := nc.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Control(func(fd uintptr) {
		var one [1]byte
		_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK) // Go's sockets do not block
		nothing = errors.Is(err, syscall.EAGAIN)
	})
	return nothing && err == nil
}

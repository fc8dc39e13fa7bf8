package redistest

import (
	"os/exec"
	"syscall"
)

// dieWithUs has the kernel kill the process when we die, however that happens: a test that is
// killed leaves no server.
func dieWithUs(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

package ownredis

import (
	"os/exec"
	"syscall"
)

// DieWithUs ends the command when the thread that started it ends, even by kill -9.
func DieWithUs(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

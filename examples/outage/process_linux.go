package main

import (
	"os/exec"
	"syscall"
)

const terminate = syscall.SIGTERM

// dieWithUs ends the command when the thread that started it ends, even by kill -9.
func dieWithUs(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

//go:build !linux

package main

import (
	"os/exec"
	"syscall"
)

const terminate = syscall.SIGTERM

// dieWithUs is for Linux only; elsewhere a server outlives us if we are killed without a chance to
// stop it.
func dieWithUs(*exec.Cmd) {}

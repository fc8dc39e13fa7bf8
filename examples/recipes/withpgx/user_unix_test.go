//go:build unix

package withpgx

import (
	"os/exec"
	"syscall"
)

// asUser runs a command as another user, unless uid is 0.
func asUser(cmd *exec.Cmd, uid int) {
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
}

//go:build !unix

package withpgx

import "os/exec"

// asUser does nothing: elsewhere nobody runs these tests as root.
func asUser(*exec.Cmd, int) {}

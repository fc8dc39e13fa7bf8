//go:build !linux

package ops

import "io/fs"

// holder returns the process that has written its id into the lock, and whether there is one with
// that number.
func holder(pid int, _ fs.FileInfo) (holder int, running bool) { return pid, runs(pid) }

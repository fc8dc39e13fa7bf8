package ops

import (
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// holder returns the process that holds the lock, and whether it is known to. pid is the one that
// has written its id into it, which may have been killed since: then that number may be another
// process's, or be counted where this command cannot see it. So the kernel is asked who has locked
// the file.
func holder(pid int, lock fs.FileInfo) (holder int, running bool) {
	locks, err := os.ReadFile("/proc/locks")
	stat, ok := lock.Sys().(*syscall.Stat_t)
	if err != nil || !ok {
		return pid, runs(pid)
	}
	// 1: FLOCK  ADVISORY  WRITE 17202 fe:00:9978018 0 EOF
	for line := range strings.Lines(string(locks)) {
		field := strings.Fields(line)
		if len(field) < 6 || field[3] != "WRITE" {
			continue
		}
		by, err := strconv.Atoi(field[4])
		place := strings.Split(field[5], ":")
		if err != nil || by <= 0 || len(place) != 3 || place[2] != strconv.FormatUint(stat.Ino, 10) {
			continue
		}
		// Some file systems tell the lock's device by another number than the file's. Then it is
		// this file if the process says so, too.
		if by == pid || place[0]+":"+place[1] == deviceOf(stat.Dev) {
			return by, true
		}
	}
	return pid, false
}

// deviceOf writes a device as /proc/locks does.
func deviceOf(dev uint64) string {
	major := dev>>8&0xfff | dev>>32&^0xfff
	minor := dev&0xff | dev>>12&^0xff
	hex := func(n uint64) string {
		s := strconv.FormatUint(n&0xffffffff, 16)
		if len(s) < 2 {
			s = "0" + s
		}
		return s
	}
	return hex(major) + ":" + hex(minor)
}

package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/redaside/aside/cmd/aside/internal/ops"
)

// directory looks at a fallback directory, or at where one is to be made.
func (d *doctor) directory(dir string) {
	info, err := os.Stat(dir)
	where := dir
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if where = existingParent(dir); where == "" {
			d.note("folder", failure, "name a folder on a disk that is there", "%s: %v", dir, err)
			return
		}
		d.note("folder", fine, "", "%s will be made in %s", dir, where)
	case err != nil:
		d.note("folder", failure, "run this as the user of the proxy, which must be able to reach it", "%v", err)
		return
	case !info.IsDir():
		d.note("folder", failure, "name another one, or move it away", "%s is no folder", dir)
		return
	case info.Mode().Perm()&0o077 != 0:
		d.note("folder", warning, "chmod 700: keys and values stand in it as plain text", "%s has mode %04o: others can look into it", dir, info.Mode().Perm())
	default:
		d.note("folder", fine, "", "%s has mode %04o", dir, info.Mode().Perm())
	}
	if where == dir {
		d.contents(dir)
	}
	d.disk(where)
}

func existingParent(dir string) string {
	at, err := filepath.Abs(dir)
	for err == nil && at != filepath.Dir(at) {
		at = filepath.Dir(at)
		if info, err := os.Stat(at); err == nil && info.IsDir() {
			return at
		}
	}
	return ""
}

func (d *doctor) contents(dir string) {
	var sum ops.Summary
	found, err := ops.Read(dir, func(r ops.Record) error {
		sum.Add(&r, time.Now())
		return nil
	})
	switch {
	case errors.Is(err, ops.ErrNotADirectory):
		d.note("contents", fine, "", "nothing of aside's is in it yet")
		if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
			d.checks = d.checks[:len(d.checks)-1]
			d.note("contents", warning, "give aside a folder of its own", "something else is in it, such as %s", plain(entries[0].Name()))
		}
	case err != nil:
		d.note("contents", failure, "run this as the user of the proxy", "%v", err)
	case len(found.Problems) > 0:
		d.note("contents", failure, "aside verify "+dir+" says what to do", "%s", count(len(found.Problems), "problem"))
	default:
		d.note("contents", fine, "", "%d pending; %s", sum.Pending(), holder(&found))
	}
}

const (
	syncTries = 20
	slowSync  = 20 * time.Millisecond
)

// disk writes as the journal does, and measures.
func (d *doctor) disk(dir string) {
	const name = "disk"
	file, err := os.CreateTemp(dir, ".aside-doctor-*")
	if err != nil {
		d.note(name, failure, "chown it to the user of the proxy, or make room", "it cannot be written: %v", err)
		return
	}
	defer os.Remove(file.Name()) //nolint:errcheck // what was left of it would be seen
	defer file.Close()           //nolint:errcheck // nobody wants what is in it
	block := make([]byte, 4096)
	took := make([]time.Duration, 0, syncTries)
	for range syncTries {
		began := time.Now()
		if _, err = file.Write(block); err == nil {
			err = file.Sync()
		}
		if err != nil {
			d.note(name, failure, "look at the disk and the space on it", "fsync: %v", err)
			return
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	median, most := took[len(took)/2], took[len(took)-1]
	v, remedy := fine, ""
	if median > slowSync {
		v, remedy = warning, "while Redis is away each write waits for one (fallback.sync: always): use a faster disk, or fallback.sync: everysec"
	}
	d.note(name, v, remedy, "4 KiB written and synced in %v (median of %d; %v at most)", median.Round(10*time.Microsecond), len(took), most.Round(10*time.Microsecond))
}

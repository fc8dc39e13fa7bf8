package ops

import (
	"bufio"
	"io"
	"strconv"
	"time"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/wire"
)

// Export writes what is pending in dir as a plain append-only file of Redis 6.2 or later: SELECT,
// SET with PXAT, DEL, kept operations as they are, and no annotations. A set that has expired is written as the delete that a
// replay would make of it. fills reports whether loaded values are written, too.
func Export(w io.Writer, dir string, fills bool, now time.Time) (Summary, Findings, error) {
	var sum Summary
	out := bufio.NewWriterSize(w, 64<<10)
	selected := -1
	found, err := Read(dir, func(r Record) error {
		if r.Op == fallback.OpFill && (!fills || r.Expired(now)) {
			return nil
		}
		sum.Add(&r, now)
		if r.DB != selected {
			selected = r.DB
			if err := command(out, "SELECT", strconv.Itoa(r.DB)); err != nil {
				return err
			}
		}
		if r.Op == fallback.OpOperations {
			return operations(out, &r)
		}
		if r.Op == fallback.OpDel || r.Expired(now) {
			return command(out, "DEL", r.Key)
		}
		if r.Expires-now.UnixMilli() > wire.LongestTTL.Milliseconds() {
			return command(out, "SET", r.Key, r.Value)
		}
		return command(out, "SET", r.Key, r.Value, "PXAT", strconv.FormatInt(r.Expires, 10))
	})
	if err == nil {
		err = out.Flush()
	}
	return sum, found, err
}

// operations writes those of a key, as one.
func operations(out *bufio.Writer, r *Record) error {
	l, err := deferred.Parse(r.Value)
	if err != nil {
		return err
	}
	_ = command(out, "MULTI")
	for _, op := range l.Ops {
		_ = command(out, append([]string{op.Command[0], r.Key}, op.Command[1:]...)...)
	}
	return command(out, "EXEC")
}

// command writes a command as RESP. The first failure is returned by this and all later calls.
func command(out *bufio.Writer, args ...string) error {
	_, err := out.WriteString("*" + strconv.Itoa(len(args)) + "\r\n")
	for _, arg := range args {
		for _, s := range []string{"$", strconv.Itoa(len(arg)), "\r\n", arg, "\r\n"} {
			_, err = out.WriteString(s)
		}
	}
	return err
}

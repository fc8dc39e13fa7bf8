package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/redaside/aside/cmd/aside/internal/ops"
)

type exportCmd struct {
	Dir    string `arg:"" help:"The fallback directory; nothing in it is changed, and a proxy may be using it."`
	Output string `name:"output" short:"o" placeholder:"FILE" help:"Write to this file, which must not be there yet. By default standard output."`
	Fills  bool   `name:"fills" help:"Also what was loaded while Redis was away."`
}

// Help implements kong.HelpProvider.
func (*exportCmd) Help() string {
	return "The file is what Redis 6.2 or later writes with appendonly: SELECT, SET with PXAT, DEL, and the operations that are kept. Give it to an empty Redis, or to other tools. " +
		"Do not pipe it into a Redis that is in use: it would overwrite what is newer there; aside replay compares.\n\n" +
		"Exit code 1: something that was acknowledged may be missing in the file, as it could not be read or is in quarantine."
}

func (c *exportCmd) Run(e *env) (err error) {
	out := e.stdout
	var file *os.File
	if c.Output != "" {
		file, err = os.OpenFile(c.Output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s is there already: name another file, or remove it", c.Output)
		}
		if err != nil {
			return err
		}
		out = file
	}
	sum, found, err := ops.Export(out, c.Dir, c.Fills, time.Now())
	if file != nil {
		if err == nil {
			err = file.Sync()
		}
		if err = errors.Join(err, file.Close()); err != nil {
			_ = os.Remove(c.Output) // half of it would look like all of it
		}
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stderr, "exported %s, %s\n", sum.Waits(count), count(sum.Fills, "loaded value"))
	return missing(e.stderr, c.Dir, &found)
}

// missing says that what was acknowledged may not all be there, if so.
func missing(stderr io.Writer, dir string, found *ops.Findings) error {
	n := found.Missing()
	if n == 0 {
		return nil
	}
	fmt.Fprintf(stderr, "aside: something that was acknowledged may be missing, because of %s: see aside verify %s\n", count(n, "problem"), dir)
	return errFound
}

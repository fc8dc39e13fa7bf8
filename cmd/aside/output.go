package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// output is standard output, and remembers when that has failed: a command whose output is not all
// there has not gone well. Not safe for concurrent use.
type output struct {
	w      io.Writer
	failed error // the first
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil && o.failed == nil {
		o.failed = err
	}
	return n, err
}

// check returns a command's error, and joins to it what output has met, unless the command has
// noticed itself.
func (o *output) check(err error) error {
	if o.failed == nil || errors.Is(err, o.failed) {
		return err
	}
	failed := fmt.Errorf("the output cannot be written: %w", o.failed)
	if err == nil || errors.Is(err, errFound) {
		return failed
	}
	return errors.Join(err, failed)
}

// plain is a text that others have chosen, such as a file's name, as it may be shown on a terminal:
// quoted if there is something in it that is not just shown.
func plain(s string) string {
	if utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return s
	}
	return strconv.Quote(s)
}

// plainLines is plain for a message: its line ends stay, and all else that is not just shown is
// escaped where it stands.
func plainLines(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch quoted := strconv.QuoteRune(r); {
		case r == '\n', unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return b.String()
}

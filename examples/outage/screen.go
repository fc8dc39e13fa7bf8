package main

import (
	"fmt"
	"os"
	"strings"
	"time"
	"unicode/utf8"
)

// screen prints the story, in lines of at most 80 characters. On a terminal there are a few
// colours, and progress is drawn in place; elsewhere it is plain lines.
type screen struct {
	out      *os.File
	terminal bool
	colours  bool
	chapters int
	heading  bool // the next row is the first of its table
}

func newScreen(out *os.File) *screen {
	info, err := out.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
	return &screen{out: out, terminal: terminal, colours: terminal && os.Getenv("NO_COLOR") == ""}
}

// readingPause is how long somebody who watches may want between the chapters.
func (s *screen) readingPause() time.Duration {
	if s.terminal {
		return 600 * time.Millisecond
	}
	return 0
}

type colour string

const (
	bold   colour = "1"
	dim    colour = "2"
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
)

func (s *screen) in(c colour, text string) string {
	if !s.colours {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

func (s *screen) chapter(title string) {
	s.chapters++
	s.heading = true
	fmt.Fprintf(s.out, "\n%s\n", s.in(bold, fmt.Sprintf("%d  %s", s.chapters, title)))
}

// say prints a paragraph.
func (s *screen) say(format string, args ...any) { s.wrap("   ", fmt.Sprintf(format, args...)) }

func (s *screen) wrap(indent, text string) {
	const width = 79
	line := indent
	for word := range strings.FieldsSeq(text) {
		if len(line) > len(indent) {
			if utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
				fmt.Fprintln(s.out, line)
				line = indent
			} else {
				line += " "
			}
		}
		line += word
	}
	fmt.Fprintln(s.out, line)
}

// news is something that happened by itself.
func (s *screen) news(c colour, format string, args ...any) {
	fmt.Fprintf(s.out, "   %s %s\n", s.in(c, "=>"), fmt.Sprintf(format, args...))
}

// row is one thing that the service was told to do.
func (s *screen) row(what, result, from, took string) {
	const format = "     %-22s %-24s %-9s %9s"
	if s.heading {
		s.heading = false
		fmt.Fprintln(s.out, s.in(dim, fmt.Sprintf(format, "the service", "says", "from / to", "took")))
	}
	fmt.Fprintf(s.out, format+"\n", what, result, from, took)
}

// verbatim prints lines of others as they are, if not always to their ends.
func (s *screen) verbatim(lines ...string) {
	const width = 72
	for _, l := range lines {
		if r := []rune(l); len(r) > width {
			l = string(r[:width-1]) + "…"
		}
		fmt.Fprintf(s.out, "     %s\n", s.in(dim, "| "+l))
	}
}

// progress draws a bar over the one before, or prints a line. It must end with done == total.
func (s *screen) progress(done, total int, took time.Duration) {
	const width = 40
	filled := width
	if total > 0 {
		filled = width * done / total
	}
	text := fmt.Sprintf("     [%s%s] %4d of %d records  %4.1f s", strings.Repeat("#", filled), strings.Repeat(".", width-filled), done, total, took.Seconds())
	if !s.terminal {
		fmt.Fprintln(s.out, text)
		return
	}
	fmt.Fprint(s.out, "\r\x1b[2K"+text)
	if done == total {
		fmt.Fprintln(s.out)
	}
}

func short(d time.Duration) string {
	switch {
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%.0f ms", ms(d))
	case d >= time.Millisecond:
		return fmt.Sprintf("%.1f ms", ms(d))
	default:
		return fmt.Sprintf("%.3f ms", ms(d))
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

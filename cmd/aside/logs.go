package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/redaside/aside/cmd/aside/internal/proxy/config"
	"github.com/redaside/aside/internal/logqueue"
)

// logs are where the log goes. Logging waits for no disk and for no reader of a pipe: each
// destination has a queue of its own, which drops and counts what does not fit. Safe for concurrent
// use.
type logs struct {
	logger *slog.Logger  // immutable, as are the next ones
	level  slog.LevelVar // what is logged; may be set at any time
	stdout *sink
	file   *sink // nil: none
	inFile *logFile
}

const (
	logGrace  = time.Second // for destinations that do not take their lines, at the end
	logMemory = 1 << 20     // for what waits for each
	logLines  = 4096
)

// openLogs opens the log. Its errors are of the configuration.
func openLogs(c config.Log, stdout io.Writer) (*logs, error) {
	l := new(logs)
	l.level.Set(logLevel(c.Level))
	l.stdout = newSink(c.Format, func(line []byte) error {
		_, err := stdout.Write(line)
		return err
	})
	var to everyone
	if c.Path != "" {
		var err error
		if l.inFile, err = openLogFile(c); err != nil {
			return nil, usageError{fmt.Errorf("log.path is %q: it cannot be written (%w): name a file that this user may write, or none", c.Path, err)}
		}
		l.file = newSink(c.Format, l.inFile.write)
		to = append(to, l.file)
	}
	if c.Stdout {
		to = append(to, l.stdout)
	}
	l.logger = slog.New(handlerOf(c.Format, to, &l.level))
	return l, nil
}

func handlerOf(format string, out io.Writer, level slog.Leveler) slog.Handler {
	options := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.NewJSONHandler(out, options)
	}
	return slog.NewTextHandler(out, options)
}

// reopen lets go of the log file, which may have another name by now, and begins one with the right
// name.
func (l *logs) reopen() {
	if l.file != nil {
		l.inFile.moved.Store(true)
		l.file.queue.Put(nil) // now rather than with the next line; should it be dropped, then with that
	}
}

// Close waits until all is written, for logGrace at most.
func (l *logs) Close() {
	var wait sync.WaitGroup
	for _, s := range []*sink{l.stdout, l.file} {
		if s != nil {
			wait.Go(func() { s.queue.Flush(logGrace) })
		}
	}
	wait.Wait()
}

// everyone is a Writer of lines that never waits and never fails.
type everyone []*sink

func (e everyone) Write(line []byte) (int, error) {
	own := bytes.Clone(line) // slog uses the buffer again
	for _, s := range e {
		s.queue.Put(own)
	}
	return len(line), nil
}

// sink is one destination of the log.
type sink struct {
	queue  *logqueue.Queue[[]byte] // immutable, as are the next ones
	format string
	write  func(line []byte) error // called by queue; with nil to do what there is to do without a line

	lost int64 // lines that could not be written since one was; belongs to queue
	why  error // of the first of them
}

func newSink(format string, write func([]byte) error) *sink {
	s := &sink{format: format, write: write}
	size := func(line []byte) int { return len(line) + 64 }
	dropped := func(n int64) ([]byte, bool) {
		return s.line("aside: log lines were dropped, as they were not taken in time", "dropped", n), true
	}
	s.queue = logqueue.New(logqueue.Limits{Items: logLines, Bytes: logMemory}, size, dropped, s.deliver)
	return s
}

// line is a line of the log that is about itself.
func (s *sink) line(msg string, args ...any) []byte {
	var line bytes.Buffer
	r := slog.NewRecord(time.Now(), slog.LevelWarn, msg, 0)
	r.Add(args...)
	_ = handlerOf(s.format, &line, slog.LevelWarn).Handle(context.Background(), r) // a bytes.Buffer takes everything
	return line.Bytes()
}

// deliver writes a line, or notes that it cannot.
func (s *sink) deliver(line []byte) {
	if s.lost > 0 && s.write(s.line("aside: log lines could not be written", "lost", s.lost, "error", s.why)) == nil {
		s.lost, s.why = 0, nil
	}
	if s.lost == 0 {
		err := s.write(line)
		if err == nil || line == nil {
			return
		}
		s.why = err
	}
	s.lost++
}

func logLevel(name string) slog.Level {
	var level slog.Level
	_ = level.UnmarshalText([]byte(strings.ToUpper(name))) // one of the four that the configuration allows
	return level
}

// lastWords writes what a command that does not wait for its log logs at its end; a reader that
// does not read it does not keep the command from ending.
type lastWords struct{ to io.Writer }

func (w lastWords) Write(text []byte) (n int, err error) {
	own, done := bytes.Clone(text), make(chan struct{})
	go func() { // ends when the text is taken, or with the process
		defer close(done)
		n, err = w.to.Write(own)
	}()
	select {
	case <-done:
		return n, err
	case <-time.After(logGrace):
		return 0, os.ErrDeadlineExceeded
	}
}

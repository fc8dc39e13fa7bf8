package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/DeRuina/timberjack"

	"github.com/redaside/aside/internal/proxy/config"
)

// logs are where the log goes. Safe for concurrent use.
type logs struct {
	logger *slog.Logger  // immutable
	level  slog.LevelVar // what is logged; may be set at any time
	file   *logFile      // nil: none
}

// openLogs opens the log. Its errors are of the configuration.
func openLogs(c config.Log, stdout io.Writer) (*logs, error) {
	l := new(logs)
	l.level.Set(logLevel(c.Level))
	var to []io.Writer
	if c.Path != "" {
		var err error
		if l.file, err = openLogFile(c); err != nil {
			return nil, usageError{fmt.Errorf("log.path is %q: it cannot be written (%w): name a file that this user may write, or none", c.Path, err)}
		}
		to = append(to, l.file) // before standard output: who sees a line there finds it in the file
	}
	if c.Stdout {
		to = append(to, stdout)
	}
	out := &everyWriter{to: to}
	options := &slog.HandlerOptions{Level: &l.level}
	if c.Format == "json" {
		l.logger = slog.New(slog.NewJSONHandler(out, options))
	} else {
		l.logger = slog.New(slog.NewTextHandler(out, options))
	}
	return l, nil
}

func (l *logs) Close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

// everyWriter writes to each of them, whatever the others say: a full disk must not silence standard output.
type everyWriter struct{ to []io.Writer }

func (w *everyWriter) Write(line []byte) (int, error) {
	var errs []error
	for _, to := range w.to {
		_, err := to.Write(line)
		errs = append(errs, err)
	}
	return len(line), errors.Join(errs...)
}

func logLevel(name string) slog.Level {
	var level slog.Level
	_ = level.UnmarshalText([]byte(strings.ToUpper(name))) // one of the four that the configuration allows
	return level
}

// logFile is a file that begins anew when it is full, or when somebody has moved it away and says so. Safe for concurrent use.
type logFile struct {
	c config.Log // immutable

	mu  sync.Mutex // guards all below
	now *timberjack.Logger
}

func openLogFile(c config.Log) (*logFile, error) {
	if err := os.MkdirAll(filepath.Dir(c.Path), 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(c.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600) // to hear of it now rather than with the first line
	if err != nil {
		return nil, err
	}
	if err := file.Close(); err != nil {
		return nil, err
	}
	f := &logFile{c: c}
	f.now = f.next()
	return f, nil
}

func (f *logFile) next() *timberjack.Logger {
	return &timberjack.Logger{
		Filename: f.c.Path, MaxSize: int(f.c.MaxSize >> 20), MaxBackups: f.c.MaxBackups, LocalTime: true, Compression: "none", FileMode: 0o600,
	}
}

func (f *logFile) Write(line []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now.Write(line)
}

// Reopen lets go of the file, which may have another name by now; the next line goes to one with the right name.
func (f *logFile) Reopen() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.now.Close()
	f.now = f.next()
	return err
}

func (f *logFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now.Close()
}

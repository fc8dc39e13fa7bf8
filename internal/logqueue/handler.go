package logqueue

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// Handler queues the records of a logger for the handler behind it, which is called from one
// goroutine at a time, also for Enabled, WithAttrs and WithGroup: no method of a Handler calls it.
// Contexts are not handed on; they may belong to somebody else by then. Safe for concurrent use.
type Handler struct {
	to    func() slog.Handler // called by the queue only
	queue *Queue[line]
}

var _ slog.Handler = (*Handler)(nil)

// line is a record on its way to a handler.
type line struct {
	to     func() slog.Handler
	record slog.Record
}

// lines is what waits at most: more than an outage logs in an hour.
var lines = Limits{Items: 4096, Bytes: 1 << 20}

// NewHandler puts a queue in front of to.
func NewHandler(to slog.Handler) *Handler {
	self := func() slog.Handler { return to }
	return &Handler{self, New(lines, line.size, func(n int64) (line, bool) {
		r := slog.NewRecord(time.Now(), slog.LevelWarn, "aside: log lines were dropped, as the log handler did not take them in time", 0)
		r.Add("dropped", n)
		return line{self, r}, true
	}, line.deliver)}
}

// Enabled implements [slog.Handler]. What is wanted is asked when a record is delivered.
func (h *Handler) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements [slog.Handler].
func (h *Handler) Handle(_ context.Context, r slog.Record) error {
	own := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		own.AddAttrs(owned(a))
		return true
	})
	h.queue.Put(line{h.to, own})
	return nil
}

// WithAttrs implements [slog.Handler].
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	own := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		own[i] = owned(a)
	}
	return h.with(func(to slog.Handler) slog.Handler { return to.WithAttrs(own) })
}

// WithGroup implements [slog.Handler].
func (h *Handler) WithGroup(name string) slog.Handler {
	return h.with(func(to slog.Handler) slog.Handler { return to.WithGroup(name) })
}

func (h *Handler) with(change func(slog.Handler) slog.Handler) *Handler {
	return &Handler{sync.OnceValue(func() slog.Handler { return change(h.to()) }), h.queue}
}

// Flush waits until the handler has returned from all that was logged before, for as long as within
// says, and reports whether it has.
func (h *Handler) Flush(within time.Duration) bool { return h.queue.Flush(within) == 0 }

func (l line) deliver() {
	if to := l.to(); to.Enabled(context.Background(), l.record.Level) {
		_ = to.Handle(context.Background(), l.record) // there is nobody to tell
	}
}

// size is what a record keeps in memory, without what its values point to.
func (l line) size() int {
	n := 128 + len(l.record.Message)
	l.record.Attrs(func(a slog.Attr) bool {
		n += 64 + len(a.Key)
		if a.Value.Kind() == slog.KindString {
			n += len(a.Value.String())
		}
		return true
	})
	return n
}

// owned is a whose text is nobody else's: the bytes of a key may be another request's by the time
// it is written.
func owned(a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(strings.Clone(a.Value.String()))
	case slog.KindGroup:
		group := a.Value.Group()
		own := make([]slog.Attr, len(group))
		for i := range group {
			own[i] = owned(group[i])
		}
		a.Value = slog.GroupValue(own...)
	}
	return a
}

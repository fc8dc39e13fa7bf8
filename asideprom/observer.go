package asideprom

import (
	"context"
	"errors"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/redaside/aside"
)

// Observer is an aside.Observer that has histograms of durations. Make one with [NewObserver], give
// it to aside.Options.Observer, and to a [Collector] by [WithObserver]. An Observer of your own may
// tell it what it is told. It needs no Options.HitEvents, and makes nothing of them. Safe for
// concurrent use.
type Observer struct {
	loads, lockWaits, commands *prometheus.HistogramVec // immutable

	mu    sync.RWMutex
	views map[string]*ofView              // guarded by mu
	calls map[command]prometheus.Observer // guarded by mu
}

// ofView is what is measured of the calls of one view.
type ofView struct {
	loads    [3]prometheus.Observer // by result; immutable
	lockWait prometheus.Observer    // immutable
}

// command is one kind of command, and how it ended.
type command struct {
	name string
	ok   bool
}

// The results of a load, in the order of resultNames.
const (
	ok = iota
	notFound
	failed
)

var resultNames = [...]string{ok: "ok", notFound: "not_found", failed: "error"}

// buckets are in seconds: from what a load from memory takes to what nobody waits for.
var buckets = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// mostViews is how many views have series of their own. Those of a program are fewer; names that are
// made of data would be without end.
const mostViews = 100

// otherViews is the view of the others.
const otherViews = "other"

// NewObserver returns an Observer that has seen nothing yet.
func NewObserver() *Observer {
	vec := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: namespace + name, Help: help, Buckets: buckets}, labels)
	}
	return &Observer{
		loads:     vec("load_duration_seconds", "How long loaders ran, by the name of the view, empty without one, and by result. A batch is one.", "view", "result"),
		lockWaits: vec("lock_wait_duration_seconds", "How long calls waited for another process to fill a key, by the name of the view.", "view"),
		commands:  vec("command_duration_seconds", "How long commands to Redis took, by script, or update for those of Update. result is ok, or error: it failed, or was refused.", "command", "result"),
		views:     make(map[string]*ofView), calls: make(map[command]prometheus.Observer),
	}
}

// Observe implements aside.Observer.
func (o *Observer) Observe(_ context.Context, e aside.Event) {
	switch e.Kind {
	case aside.EventLoad:
		o.view(e.View).loads[resultOf(e.Err)].Observe(e.Duration.Seconds())
	case aside.EventLockWait:
		o.view(e.View).lockWait.Observe(e.Duration.Seconds())
	case aside.EventCommand, aside.EventRedisError:
		o.command(command{e.Op, e.Kind == aside.EventCommand && e.Err == nil}).Observe(e.Duration.Seconds())
	}
}

// view returns the series of a view.
func (o *Observer) view(name string) *ofView {
	o.mu.RLock()
	v := o.views[name]
	o.mu.RUnlock()
	if v != nil {
		return v
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if v = o.views[name]; v != nil {
		return v
	}
	if len(o.views) >= mostViews {
		if v = o.views[otherViews]; v != nil {
			return v
		}
		name = otherViews
	}
	v = &ofView{lockWait: o.lockWaits.WithLabelValues(name)}
	for result, text := range resultNames {
		v.loads[result] = o.loads.WithLabelValues(name, text)
	}
	o.views[name] = v
	return v
}

// command returns the series of a command. There are as many as scripts.
func (o *Observer) command(c command) prometheus.Observer {
	o.mu.RLock()
	observer := o.calls[c]
	o.mu.RUnlock()
	if observer != nil {
		return observer
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if observer = o.calls[c]; observer == nil {
		name, result := c.name, "error"
		if name == "" {
			name = "update"
		}
		if c.ok {
			result = "ok"
		}
		observer = o.commands.WithLabelValues(name, result)
		o.calls[c] = observer
	}
	return observer
}

func resultOf(err error) int {
	switch {
	case err == nil:
		return ok
	case errors.Is(err, aside.ErrNotFound):
		return notFound
	default:
		return failed
	}
}

func (o *Observer) all() [3]*prometheus.HistogramVec {
	return [...]*prometheus.HistogramVec{o.loads, o.lockWaits, o.commands}
}

func (o *Observer) describe(ch chan<- *prometheus.Desc) {
	for _, vec := range o.all() {
		vec.Describe(ch)
	}
}

func (o *Observer) collect(ch chan<- prometheus.Metric) {
	for _, vec := range o.all() {
		vec.Collect(ch)
	}
}

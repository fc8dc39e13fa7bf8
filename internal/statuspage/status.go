// Package statuspage is the page that shows how a client is doing: the proxy's, and that of package
// asidehttp. It knows what is shown, and not who may see it.
package statuspage

import (
	"cmp"
	"sync"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
)

// Status is what the page shows. Durations have their unit in their name.
type Status struct {
	Now     time.Time `json:"now"`
	Started time.Time `json:"started"`
	Version string    `json:"version"`

	Mode    aside.Mode `json:"mode"`
	Since   time.Time  `json:"since"`
	Error   string     `json:"error,omitempty"`
	Durable bool       `json:"durable"`
	Shards  []Shard    `json:"shards"`

	Redis string `json:"redis"` // its address
	Todo  string `json:"todo"`  // for the operator

	Tiers     Tiers                `json:"tiers"`  // since the process began
	Minute    Tiers                `json:"minute"` // in the last 60 s
	MissedOf  string               `json:"missed_of,omitempty"`
	Refused   Refused              `json:"refused"`
	RefusedOf string               `json:"refused_of,omitempty"`
	Refusals  []Refusal            `json:"refusals,omitempty"` // of commands, the most frequent first; nil: there were none, or nobody counts
	Checked   []Refusal            `json:"checked,omitempty"`  // that there would be in an outage; nil: there are none, or nobody looks
	Memory    Memory               `json:"memory"`
	Latency   map[string]Latencies `json:"latency,omitempty"` // by front end, of the last 60 whole seconds; nil: there are none
	Loads     *Loads               `json:"loads,omitempty"`   // nil: nothing is loaded here
	RESP      *RESP                `json:"resp,omitempty"`

	Backlog Backlog  `json:"backlog"`
	Replay  Replay   `json:"replay"`
	Changes []Change `json:"changes"` // newest first
}

// Shard is one of a cluster, or the one server.
type Shard struct {
	Addr  string     `json:"addr"`
	Mode  aside.Mode `json:"mode"`
	Since time.Time  `json:"since"`
	Error string     `json:"error,omitempty"`
}

// Tiers are keys by what answered them.
type Tiers struct {
	Memory int64 `json:"memory"`
	Redis  int64 `json:"redis"`
	Disk   int64 `json:"disk"`
	Missed int64 `json:"missed"` // none of these had it, see Options.Missed
}

// Refused are requests that were answered with an error, see Options.Refused.
type Refused struct {
	All    int64 `json:"all"`    // since the process began
	Minute int64 `json:"minute"` // in the last 60 s
}

// Refusal is a kind of command that was refused as Redis was away.
type Refusal struct {
	Command string    `json:"command"`
	Client  string    `json:"client"`           // as it calls itself; "": it does not
	Outage  string    `json:"outage,omitempty"` // what would become of it in an outage; "": it was refused
	Count   int64     `json:"count"`
	Last    time.Time `json:"last"`
	Example string    `json:"example"` // one of them, without values
}

// Memory is how large the memory of the process is.
type Memory struct {
	Entries int   `json:"entries"`
	Bytes   int64 `json:"bytes"`
}

// Latencies are those of the last 60 whole seconds.
type Latencies struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50_us"` // microseconds; 0 if there were none
	P99   float64 `json:"p99_us"`
	Rate  []int64 `json:"rate"` // requests in each second, oldest first
}

// Loads are counts since the process began, but for Waiting.
type Loads struct {
	Calls   int64 `json:"calls"`
	Errors  int64 `json:"errors"`
	Refused int64 `json:"refused"`
	Stale   int64 `json:"stale"`
	Waiting int   `json:"waiting"` // keys, right now
}

// RESP is the other front end of the proxy.
type RESP struct {
	Connections int64 `json:"connections"`
	Commands    int64 `json:"commands"`
}

// Backlog is what waits to be replayed.
type Backlog struct {
	Sets        int    `json:"sets"`
	Deletes     int    `json:"deletes"`
	Fills       int    `json:"fills"`
	Bytes       int64  `json:"bytes"`
	Quarantined int    `json:"quarantined"`
	Dir         string `json:"dir,omitempty"` // where they are; "": in memory, or not known
	MaxBytes    int64  `json:"max_bytes"`     // 0: not known
	Error       string `json:"error,omitempty"`
}

// Replay is the latest one.
type Replay struct {
	Shard     string         `json:"shard"`
	Running   bool           `json:"running"`
	Restarted bool           `json:"restarted"`
	Done      int            `json:"done"`
	Total     int            `json:"total"`
	Began     *time.Time     `json:"began,omitempty"` // nil: there was none
	TookMS    int64          `json:"took_ms"`         // 0 while it runs
	Verdicts  map[string]int `json:"verdicts"`
	Error     string         `json:"error,omitempty"`
}

// Change is one change of a shard's mode.
type Change struct {
	At    time.Time  `json:"at"`
	Shard string     `json:"shard,omitempty"`
	From  aside.Mode `json:"from"`
	To    aside.Mode `json:"to"`
	Error string     `json:"error,omitempty"`
}

// Options say what is not the client's. The zero value is usable.
type Options struct {
	Version     string // shown as it is
	Redis       string // names the server; "": not known
	FallbackDir string // "": not known

	// Missed counts keys that none of the tiers had, in MissedOf's words, and Refused the requests
	// that had an error for the outage, in RefusedOf's. nil: loader calls, and loads refused by a
	// bound; then there are Loads, too.
	Missed, Refused     func() int64
	MissedOf, RefusedOf string

	// What the settings of the directory are called here. Default to Options.FallbackDir and
	// Options.Fallback.MaxBytes.
	DirSetting, MaxBytesSetting string
}

// Watch knows what a client has done lately. Make one with [New]. Safe for concurrent use.
type Watch struct {
	o       Options // immutable, as are the next ones
	client  *aside.Client
	started time.Time

	changes changes
	minute  lastMinute
}

// New returns a Watch that begins now. Whoever makes it gives it the client's changes of mode, by
// Changed.
func New(client *aside.Client, o Options) *Watch {
	o.DirSetting = cmp.Or(o.DirSetting, "Options.FallbackDir")
	o.MaxBytesSetting = cmp.Or(o.MaxBytesSetting, "Options.Fallback.MaxBytes")
	w := &Watch{o: o, client: client, started: time.Now()}
	w.Tick()
	return w
}

// Changed notes a change of mode.
func (w *Watch) Changed(change aside.ModeChange) { w.changes.add(change) }

// Tick is called about every second, or at least when somebody looks: what the last minute was
// depends on it.
func (w *Watch) Tick() { w.minute.tick(time.Now(), w.tally(w.client.Stats())) }

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Snapshot is the state of things now. health is the client's.
func (w *Watch) Snapshot(health aside.Health) Status {
	now, stats := time.Now(), w.client.Stats()
	f, replay := health.Fallback, health.Replay
	st := Status{
		Now: now.UTC(), Started: w.started.UTC(), Version: w.o.Version,
		Mode: health.Mode, Since: health.Since.UTC(), Error: textOf(health.Err), Durable: health.Durable, Shards: []Shard{},
		Redis: w.o.Redis, Memory: Memory{stats.MemoryEntries, stats.MemoryBytes}, MissedOf: w.o.MissedOf, RefusedOf: w.o.RefusedOf,
		Backlog: Backlog{
			Sets: f.Sets, Deletes: f.Deletes, Fills: f.Fills, Bytes: f.Bytes, Quarantined: f.Quarantined, Dir: w.o.FallbackDir, MaxBytes: f.MaxBytes,
			Error: textOf(f.Err),
		},
		Replay: Replay{
			Shard: replay.Shard, Running: replay.Running, Restarted: replay.Restarted, Done: replay.Done, Total: replay.Report.Total,
			TookMS: replay.Report.Took.Milliseconds(), Verdicts: verdicts(replay.Report), Error: textOf(replay.Report.Err),
		},
		Changes: w.changes.latest(),
	}
	if w.o.Missed == nil {
		st.MissedOf, st.RefusedOf = "loader calls", "loads refused, as too many ran"
		st.Loads = &Loads{stats.Loads, stats.LoadErrors, stats.Overloaded, stats.StaleHits, stats.Waiting}
	}
	total, minute := w.minute.since(now, w.tally(stats))
	st.Tiers, st.Minute, st.Refused = total.Tiers, minute.Tiers, Refused{total.refused, minute.refused}
	for _, shard := range health.Shards {
		st.Shards = append(st.Shards, Shard{shard.Addr, shard.Mode, shard.Since.UTC(), textOf(shard.Err)})
	}
	if began := replay.Report.Began; !began.IsZero() {
		began = began.UTC()
		st.Replay.Began = &began
	}
	st.Todo = st.todo(&w.o)
	return st
}

func verdicts(r fallback.ReplayReport) map[string]int {
	return map[string]int{
		"applied": r.Applied, "superseded": r.Superseded, "deleted": r.Deleted, "dropped": r.Dropped, "refused": r.Refused, "failed": r.Failed,
	}
}

// todo is what an operator has to do, the most urgent of it, in one sentence.
func (s *Status) todo(o *Options) string {
	at, b := "Redis", s.Backlog
	if s.Redis != "" {
		at += " at " + s.Redis
	}
	full := b.MaxBytes > 0 && b.Bytes >= b.MaxBytes/5*4
	switch {
	case b.Error != "":
		return "See to the disk, or the rights, of " + cmp.Or(b.Dir, "the fallback directory") + ": writes are refused while it fails."
	case s.Mode != aside.Healthy && full && s.Durable:
		return "Bring back " + at + ", or raise " + o.MaxBytesSetting + " and restart: when the fallback directory is full, writes are refused."
	case s.Mode == aside.Degraded && !s.Durable:
		return "Bring back " + at + " before this process ends: without " + o.DirSetting + " what is written meanwhile ends with it."
	case s.Mode == aside.Degraded:
		return "Bring back " + at + ". The rest is done here: writes are kept, and replayed then."
	case s.Replay.Verdicts["refused"] > 0 && b.Sets+b.Deletes > 0:
		return "See why Redis refuses writes (aside doctor --redis URL): they are tried again every 5 seconds."
	case b.Quarantined > 0:
		return "Look at what could not be read: aside verify " + cmp.Or(b.Dir, "DIR") + "."
	case s.Mode == aside.Healthy && s.Error != "":
		return "See to what does not work although Redis answers: " + s.Error + "."
	case s.Mode == aside.Recovering:
		return "Nothing: the replay ends by itself."
	}
	return "Nothing."
}

// totals are counts since the process began.
type totals struct {
	Tiers

	refused int64
}

func (w *Watch) tally(stats aside.Stats) totals {
	missed, refused := stats.Loads, stats.Overloaded
	if w.o.Missed != nil {
		missed, refused = w.o.Missed(), w.o.Refused()
	}
	return totals{Tiers{stats.MemoryHits, stats.RedisHits, stats.DiskHits, missed}, refused}
}

// lastMinute remembers the totals of the last 60 seconds, as far as it was told. Safe for
// concurrent use.
type lastMinute struct {
	mu      sync.Mutex
	samples []sample // oldest first; guarded by mu
}

type sample struct {
	at time.Time
	totals
}

const (
	samplesEvery = 900 * time.Millisecond // and not more often, however many look
	samplesFor   = time.Minute + time.Second/2
)

// tick notes the totals.
func (m *lastMinute) tick(at time.Time, now totals) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.samples); n > 0 && at.Sub(m.samples[n-1].at) < samplesEvery {
		return
	}
	m.dropLocked(at)
	m.samples = append(m.samples, sample{at, now})
}

// dropLocked drops what is of more than a minute ago.
func (m *lastMinute) dropLocked(at time.Time) {
	old := 0
	for old < len(m.samples) && at.Sub(m.samples[old].at) > samplesFor {
		old++
	}
	m.samples = append(m.samples[:0], m.samples[old:]...)
}

// since returns what has come to now in the last minute, or since it was first told in it.
func (m *lastMinute) since(at time.Time, now totals) (total, minute totals) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dropLocked(at)
	if len(m.samples) == 0 {
		return now, totals{}
	}
	was := m.samples[0]
	return now, totals{
		Tiers{now.Memory - was.Memory, now.Redis - was.Redis, now.Disk - was.Disk, now.Missed - was.Missed}, now.refused - was.refused,
	}
}

// changes are the last changes of mode. Safe for concurrent use.
type changes struct {
	mu   sync.Mutex
	list []Change // oldest first; guarded by mu
}

const keptChanges = 20

func (c *changes) add(change aside.ModeChange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, Change{change.At.UTC(), change.Shard, change.From, change.To, textOf(change.Err)})
	if len(c.list) > keptChanges {
		c.list = append([]Change(nil), c.list[len(c.list)-keptChanges:]...)
	}
}

// latest returns them, newest first.
func (c *changes) latest() []Change {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]Change, len(c.list))
	for i, change := range c.list {
		list[len(list)-1-i] = change
	}
	return list
}

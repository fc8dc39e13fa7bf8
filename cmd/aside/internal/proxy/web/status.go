package web

import (
	"cmp"
	"sync"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
)

// status is what the page shows: the data of each event. Durations have their unit in their name.
type status struct {
	Now     time.Time `json:"now"`
	Started time.Time `json:"started"`
	Version string    `json:"version"`

	Mode    aside.Mode    `json:"mode"`
	Since   time.Time     `json:"since"`
	Error   string        `json:"error,omitempty"`
	Durable bool          `json:"durable"`
	Shards  []shardStatus `json:"shards"`

	Redis string `json:"redis"` // its address
	Todo  string `json:"todo"`  // for the operator

	Tiers   tiers                `json:"tiers"`  // since the process began
	Minute  tiers                `json:"minute"` // in the last 60 s
	Refused refused              `json:"refused"`
	Memory  memoryStatus         `json:"memory"`
	Latency map[string]latencies `json:"latency"` // by front end, of the last 60 whole seconds
	RESP    *respStatus          `json:"resp,omitempty"`

	Backlog backlogStatus  `json:"backlog"`
	Replay  replayStatus   `json:"replay"`
	Changes []changeStatus `json:"changes"` // newest first
}

type shardStatus struct {
	Addr  string     `json:"addr"`
	Mode  aside.Mode `json:"mode"`
	Since time.Time  `json:"since"`
	Error string     `json:"error,omitempty"`
}

// tiers are keys by what answered them.
type tiers struct {
	Memory int64 `json:"memory"`
	Redis  int64 `json:"redis"`
	Disk   int64 `json:"disk"`
	Missed int64 `json:"missed"` // there was nothing
}

// refused are requests, by HTTP and RESP, that were answered with an error because Redis is away,
// or the fallback directory full or failing.
type refused struct {
	All    int64 `json:"all"`    // since the process began
	Minute int64 `json:"minute"` // in the last 60 s
}

type memoryStatus struct {
	Entries int   `json:"entries"`
	Bytes   int64 `json:"bytes"`
}

type respStatus struct {
	Connections int64 `json:"connections"`
	Commands    int64 `json:"commands"`
}

type backlogStatus struct {
	Sets        int    `json:"sets"`
	Deletes     int    `json:"deletes"`
	Fills       int    `json:"fills"`
	Bytes       int64  `json:"bytes"`
	Quarantined int    `json:"quarantined"`
	Dir         string `json:"dir,omitempty"` // where they are; "": in memory
	MaxBytes    int64  `json:"max_bytes"`     // 0: not known
	Error       string `json:"error,omitempty"`
}

type replayStatus struct {
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

type changeStatus struct {
	At    time.Time  `json:"at"`
	Shard string     `json:"shard,omitempty"`
	From  aside.Mode `json:"from"`
	To    aside.Mode `json:"to"`
	Error string     `json:"error,omitempty"`
}

// verdict is how many records of a replay ended in one way.
type verdict struct {
	name string
	n    int
}

func verdicts(r fallback.ReplayReport) []verdict {
	return []verdict{
		{"applied", r.Applied},
		{"superseded", r.Superseded},
		{"deleted", r.Deleted},
		{"dropped", r.Dropped},
		{"refused", r.Refused},
		{"failed", r.Failed},
	}
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// snapshot is the state of things now.
func (s *Server) snapshot() status {
	now := time.Now()
	stats, health := s.client.Stats(), s.mode.refresh(s.client)
	f, replay := health.Fallback, health.Replay
	st := status{
		Now: now.UTC(), Started: s.started.UTC(), Version: s.o.Version,
		Mode: health.Mode, Since: health.Since.UTC(), Error: textOf(health.Err), Durable: health.Durable, Shards: []shardStatus{},
		Redis:  s.o.Redis,
		Memory: memoryStatus{stats.MemoryEntries, stats.MemoryBytes},
		Latency: map[string]latencies{
			"http": s.metrics.http.latencies(now),
			"resp": s.metrics.resp.latencies(now),
		},
		Backlog: backlogStatus{
			Sets: f.Sets, Deletes: f.Deletes, Fills: f.Fills, Bytes: f.Bytes, Quarantined: f.Quarantined, Dir: s.o.FallbackDir, MaxBytes: s.o.FallbackMaxBytes,
			Error: textOf(f.Err),
		},
		Replay: replayStatus{
			Shard: replay.Shard, Running: replay.Running, Restarted: replay.Restarted, Done: replay.Done, Total: replay.Report.Total,
			TookMS: replay.Report.Took.Milliseconds(), Verdicts: map[string]int{}, Error: textOf(replay.Report.Err),
		},
		Changes: s.journal.latest(),
	}
	if health.Mode == aside.Healthy {
		st.Error = ""
	}
	total, minute := s.minute.since(s.tally(stats))
	st.Tiers, st.Minute, st.Refused = total.tiers, minute.tiers, refused{total.refused, minute.refused}
	for _, shard := range health.Shards {
		st.Shards = append(st.Shards, shardStatus{shard.Addr, shard.Mode, shard.Since.UTC(), textOf(shard.Err)})
	}
	if began := replay.Report.Began; !began.IsZero() {
		began = began.UTC()
		st.Replay.Began = &began
	}
	for _, v := range verdicts(replay.Report) {
		st.Replay.Verdicts[v.name] = v.n
	}
	if s.o.RESP != nil {
		st.RESP = new(respStatus)
		st.RESP.Connections, st.RESP.Commands = s.o.RESP()
	}
	st.Todo = st.todo()
	return st
}

// todo is what an operator has to do, the most urgent of it, in one sentence.
func (s status) todo() string {
	at, b := "Redis", s.Backlog
	if s.Redis != "" {
		at += " at " + s.Redis
	}
	full := b.MaxBytes > 0 && b.Bytes >= b.MaxBytes/5*4
	switch {
	case b.Error != "":
		return "See to the disk, or the rights, of " + cmp.Or(b.Dir, "the fallback directory") + ": writes are refused while it fails."
	case s.Mode != aside.Healthy && full && s.Durable:
		return "Bring back " + at + ", or raise fallback.max_bytes and restart: when the fallback directory is full, writes are refused."
	case s.Mode == aside.Degraded && !s.Durable:
		return "Bring back " + at + " before this process ends: without fallback.dir what is written meanwhile ends with it."
	case s.Mode == aside.Degraded:
		return "Bring back " + at + ". The rest is done here: writes are kept, and replayed then."
	case s.Replay.Verdicts["refused"] > 0 && b.Sets+b.Deletes > 0:
		return "See why Redis refuses writes (aside doctor --redis URL): they are tried again every 5 seconds."
	case b.Quarantined > 0:
		return "Look at what could not be read: aside verify " + cmp.Or(b.Dir, "DIR") + "."
	case s.Mode == aside.Recovering:
		return "Nothing: the replay ends by itself."
	}
	return "Nothing."
}

// totals are counts since the process began.
type totals struct {
	tiers
	refused int64
}

func (s *Server) tally(stats aside.Stats) totals {
	return totals{tiers{stats.MemoryHits, stats.RedisHits, stats.DiskHits, s.store.Misses()}, s.store.Refused()}
}

// lastMinute remembers the totals of each of the last 60 seconds. Safe for concurrent use.
type lastMinute struct {
	mu     sync.Mutex
	sample [windowSeconds]totals // guarded by mu, as is the next one
	next   int                   // that is overwritten: the oldest; at first all are zero, as the totals were
}

// tick is called every second.
func (m *lastMinute) tick(now totals) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sample[m.next] = now
	m.next = (m.next + 1) % len(m.sample)
}

// since returns what has come to now in the last minute.
func (m *lastMinute) since(now totals) (total, minute totals) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.sample[m.next]
	return now, totals{
		tiers{now.Memory - was.Memory, now.Redis - was.Redis, now.Disk - was.Disk, now.Missed - was.Missed}, now.refused - was.refused,
	}
}

// changes are the last changes of mode. Safe for concurrent use.
type changes struct {
	mu   sync.Mutex
	list []changeStatus // oldest first
}

const keptChanges = 20

func (c *changes) add(change aside.ModeChange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, changeStatus{change.At.UTC(), change.Shard, change.From, change.To, textOf(change.Err)})
	if len(c.list) > keptChanges {
		c.list = append([]changeStatus(nil), c.list[len(c.list)-keptChanges:]...)
	}
}

// latest returns them, newest first.
func (c *changes) latest() []changeStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]changeStatus, len(c.list))
	for i, change := range c.list {
		list[len(list)-1-i] = change
	}
	return list
}

package faults_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redaside/aside/internal/redistest"
)

// summary is what the matrix has measured.
type summary struct {
	disk    disk
	rows    []*measured
	backlog time.Duration // back with 10,000 records; 0: not measured
}

// goal is a figure that is to be reached.
type goal struct {
	what           string
	target, figure string
	met            bool
}

func (g goal) String() string {
	return fmt.Sprintf("%s: %s: %s; goal %s", mark(g.met), g.what, g.figure, g.target)
}

func mark(met bool) string {
	if met {
		return "met"
	}
	return "MISSED"
}

// goals are those of issue 3 that have to do with faults.
func (s *summary) goals() (list []goal) {
	longest := func(what string, limit time.Duration, of func(*measured) (time.Duration, bool)) {
		most, where := time.Duration(-1), ""
		for _, m := range s.rows {
			if d, ok := of(m); ok && d > most {
				most, where = d, m.row.name
			}
		}
		if most >= 0 {
			list = append(list, goal{what, "≤ " + ms(limit), fmt.Sprintf("%s (%s)", ms(most), where), most <= limit})
		}
	}
	number := func(what string, of func(*measured) int) {
		n, where := 0, []string(nil)
		for _, m := range s.rows {
			if of(m) > 0 {
				n, where = n+of(m), append(where, m.row.name)
			}
		}
		figure := fmt.Sprint(n)
		if n > 0 {
			figure += " (" + strings.Join(where, ", ") + ")"
		}
		list = append(list, goal{what, "0", figure, n == 0})
	}
	longest("longest Get while nothing answers, 100 ms `ctx`", 130*time.Millisecond, func(m *measured) (time.Duration, bool) {
		return m.longestGet, m.row.silent
	})
	longest("longest Set or Del while nothing answers, 100 ms `ctx`", 130*time.Millisecond, func(m *measured) (time.Duration, bool) {
		return m.longestWrite, m.row.silent
	})
	longest("longest Get after the trip where connections are refused or broken", slowCall, func(m *measured) (time.Duration, bool) {
		return m.longestGetAfter, m.row.refuses && m.tripped
	})
	longest("longest Set or Del there, which waits for the disk", slowCall, func(m *measured) (time.Duration, bool) {
		return m.longestWriteAfter, m.row.refuses && m.tripped
	})
	number("calls that wait for Redis after the trip", func(m *measured) int {
		if !m.calm { // when each began is not known well enough
			return 0
		}
		return max(m.askedAfter, m.asked)
	})
	longest("time to degraded under load", redisTimeout+50*time.Millisecond, func(m *measured) (time.Duration, bool) {
		return m.toDegraded, m.tripped && !m.already && m.row.noticed != perhaps
	})
	longest("time to degraded, idle", longestUnnoticed, func(m *measured) (time.Duration, bool) {
		return m.idle.toDegraded, m.idle.noticed > 0 && m.row.noticed == always
	})
	longest("back to healthy, empty backlog", 2500*time.Millisecond, func(m *measured) (time.Duration, bool) {
		return m.idle.back, m.idle.noticed > 0
	})
	if s.backlog > 0 {
		const limit = 5 * time.Second
		list = append(list, goal{"back to healthy, 10,000 records", "≤ " + ms(limit), ms(s.backlog), s.backlog <= limit})
	}
	number("stale reads", func(m *measured) int { return m.stale })
	number("acknowledged writes and deletes lost or undone", func(m *measured) int { return m.lost })
	number("records, files, locks, goroutines, descriptors left", func(m *measured) int {
		return m.leftFiles + m.leftLock + m.left.goroutines + m.left.descriptors
	})
	return list
}

// write makes the page of the documentation.
func (s *summary) write(t *testing.T, path string) {
	t.Helper()
	var b strings.Builder
	form := "short form: figures with a time in them are rough"
	if *full {
		form = "full form"
	}
	fmt.Fprintf(&b, "# Fault matrix\n\nWritten by `%s` on %s (%s).\n\n%s\n\n", command(), time.Now().UTC().Format(time.DateOnly), form, machine(t))
	fmt.Fprintf(&b, "An fsync of the fallback directory's disk takes %s, at most %s in 200, when nothing else runs.\n\n", ms(s.disk.median), ms(s.disk.longest))

	b.WriteString("## Goals\n\n| what | goal | measured |  |\n|---|---:|---:|---|\n")
	for _, g := range s.goals() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", g.what, g.target, g.figure, mark(g.met))
	}

	b.WriteString("\n## What callers notice\n\n" +
		"| fault | callers | calls | longest Get | longest Set, Del | of it to disk | over 20 ms | of these after the trip | longest after the trip | asked Redis after the trip | ended by their deadline | degraded: load | degraded: idle | to replay | back: load | relapses | back: idle | woken late |\n" +
		"|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, m := range s.rows {
		after, asked, degraded, back, longest := "–", "–", "–", "–", "–"
		if m.tripped {
			after, asked, longest = fmt.Sprint(m.slowAfter), fmt.Sprint(max(m.askedAfter, m.asked)), ms(max(m.longestGetAfter, m.longestWriteAfter))
			degraded, back = ms(m.toDegraded), ms(m.back)
			if !m.recovered {
				back = "> " + ms(recoverIn)
			}
		}
		idle, idleBack := "–", "–"
		if m.idle.noticed > 0 {
			idle, idleBack = ms(m.idle.toDegraded), ms(m.idle.back)
		}
		fmt.Fprintf(&b, "| %s | %d | %d | %s | %s | %s | %d | %s | %s | %s | %d | %s | %s | %d | %s | %d | %s | %s |\n",
			m.row.name, m.callers, m.calls, ms(m.longestGet), ms(m.longestWrite), ms(m.longestPut), m.slow, after, longest, asked, m.outcomes[deadline],
			degraded, idle, m.backlog, back, m.relapses, idleBack, ms(m.overslept))
	}

	b.WriteString("\n## What is lost\n\n" +
		"| fault | how | stale reads | writes lost, deletes undone | lost by Redis itself | stale for that reason | Sets turned into deletes | in the journal | not acknowledged | left behind |\n" +
		"|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, m := range s.rows {
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %d | %d | %d | %d | %d | %d |\n", m.row.name, m.row.what, m.stale, m.lost, m.lostRedis, m.staleRedis,
			m.turned, m.journaled, m.outcomes[unknown]+m.outcomes[refused], m.leftFiles+m.leftLock+m.left.goroutines+m.left.descriptors)
	}
	b.WriteString(reading)
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("wrote %s", path)
}

const reading = `
## How to read this

Client, callers, proxy and servers share the cores of one machine. A caller sleeps, calls, and sleeps again; each call has a ` + "`ctx`" + ` of
100 ms; of twenty calls eighteen are Gets of any of some thousand keys, one is a Set, one a Del. The loader answers at once. *Woken late* is how much longer than asked
for some caller slept: as much of a longest call may be the machine's doing, and the rows without a fault show what else is.

- *calls* and all that follows are those between the fault and its end; *longest Set, Del* contains an fsync once Redis is away: *of it to disk*
  is the longest that one has waited for the disk.
- *the trip* is when the client notices and becomes degraded. *asked Redis after the trip* are requests that began later, by the observer's events
  and as the proxy counted commands: nobody but the prober asks.
- *degraded* is counted from the fault, *back* from when the server answers again until the client is healthy and has replayed what there was (*to replay*). *idle* is the slowest of 8 clients
  that nobody has used for 5 s; it has nothing to replay. *relapses* are when it became degraded once more while it came back. A client does not notice in that time what is marked –, or has no need to.
- *stale* is an answer older than what was acknowledged in the same process before the request, or, in another process that takes itself to be healthy, more than StaleLease (1 s) before.
- *lost* is what was acknowledged and is not in effect in Redis when all is replayed, though nothing newer is, or what was deleted and is there again. *lost by Redis itself* is what
  Redis had acknowledged and did not keep: the client says nothing else than Redis did.
- *turned into deletes* are Sets whose replay met a value that others had loaded: the next read loads afresh.
- *not acknowledged* are writes that returned an error other than that of their deadline: Redis was asked and had not answered, so that the outcome is not known yet (they are kept, and replayed), or it had refused.
`

// command is how this run was started, as far as it shows.
func command() string {
	args := []string{"go test -C integration ./faults -run Matrix"}
	if *full {
		args = append(args, "-full")
	}
	path := *table
	if here, err := os.Getwd(); err == nil && filepath.IsAbs(path) {
		if rel, err := filepath.Rel(here, path); err == nil {
			path = rel
		}
	}
	return strings.Join(append(args, "-v", "-table", filepath.ToSlash(path)), " ")
}

func machine(t *testing.T) string {
	t.Helper()
	cpu := "unknown CPU"
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			cpu = strings.TrimSpace(value)
			break
		}
	}
	server := redistest.Start(t)
	parts := []string{cpu, fmt.Sprintf("%d cores", runtime.NumCPU()), runtime.GOOS + "/" + runtime.GOARCH, runtime.Version(), server.Name() + " " + server.Version()}
	modules, _ := os.ReadFile("../../go.mod") // a test's own build information does not list them
	for line := range strings.Lines(string(modules)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "github.com/redis/rueidis" {
			parts = append(parts, "redis/rueidis "+fields[1])
		}
	}
	return strings.Join(parts, ", ")
}

// disk is how long an fsync takes here.
type disk struct{ median, longest time.Duration }

func newDisk(t *testing.T) disk {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var took []time.Duration
	for range 200 {
		if _, err := f.WriteString("about as long as a record with a small value is, so that it takes as long to write"); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return disk{took[len(took)/2], took[len(took)-1]}
}

func ms(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%d ms", d.Round(time.Millisecond)/time.Millisecond)
}

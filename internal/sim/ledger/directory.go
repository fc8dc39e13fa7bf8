package ledger

import (
	"context"
	"slices"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/stamp"
)

// directory is a fallback.Dir of which the key's record is looked at only: what its journal and its file have, and
// the index, which a killed process takes with it. A fallback.Memory is the index, as both have the same one.
// TestTheDirectoryDoesWhatADirDoes compares it with a Dir.
type directory struct {
	index   *fallback.Memory // nil: nobody has it open
	file    fallback.Record
	hasFile bool
	journal []entry
	puts    []*put // under way
	round   *round // of the flusher; nil: it rests

	without rule
}

// entry is a record of the journal. settled: it cancels what has its stamp, and older.
type entry struct {
	record  fallback.Record
	settled bool
}

// put is a Put, in the steps of Dir.putRecords.
type put struct {
	records []fallback.Record
	merged  bool
}

// round is what the flusher is at (fallback/flush.go).
type round struct {
	mark    int    // the journal up to here goes
	before  []*put // began before, and must be merged first
	written bool
}

var forever = context.Background()

// open is Dir.recover.
func (d *directory) open() {
	d.index, d.puts, d.round = fallback.NewMemory(1<<30), nil, nil
	if d.hasFile {
		d.merge(d.file)
	}
	for _, e := range d.journal {
		if e.settled { // index.settleUpToLocked
			if s, ok := d.index.Stamp(key); ok && s <= e.record.Stamp {
				d.index.Settle(fallback.Record{Op: fallback.OpDel, Key: key, Stamp: s})
			}
			continue
		}
		d.merge(fromJournal(e.record))
	}
}

// fromJournal is a record as it comes out of the journal: that has the commands, and the stamp of the last.
func fromJournal(r fallback.Record) fallback.Record {
	if l := listOf(r); r.Op == fallback.OpOperations && len(l.Ops) > 0 {
		commands := make([][]string, len(l.Ops))
		for i, op := range l.Ops {
			commands[i] = op.Command
		}
		r.Value = deferred.Together(l.ID, r.Stamp, commands).String()
	}
	return r
}

func listOf(r fallback.Record) deferred.List {
	if r.Op != fallback.OpOperations {
		return deferred.List{}
	}
	l, _ := deferred.Parse(r.Value)
	return l
}

// kill ends the process that has it.
func (d *directory) kill() { d.index, d.puts, d.round = nil, nil, nil }

// begin is the first half of Dir.putRecords: the journal has the records then. What is superseded does not come there
// (needLocked).
func (d *directory) begin(records []fallback.Record) *put {
	p := &put{}
	for _, r := range records {
		if now, ok, _ := d.index.Get(key); ok && r.Op != fallback.OpOperations && d.supersedes(now, r) {
			continue
		}
		p.records = append(p.records, r)
		d.journal = append(d.journal, entry{record: r})
	}
	d.puts = append(d.puts, p)
	return p
}

// supersedes is not replaces, of explicit records.
func (d *directory) supersedes(now, next fallback.Record) bool {
	if d.without.has(setComesLast) && now.Op == fallback.OpOperations {
		return false
	}
	return now.Stamp > next.Stamp || now.Stamp == next.Stamp && !(next.Op == fallback.OpDel && now.Op == fallback.OpSet)
}

// end is the other half: the index has them.
func (d *directory) end(p *put) {
	for _, r := range p.records {
		d.merge(r)
	}
	p.merged = true
	d.puts = slices.DeleteFunc(d.puts, func(q *put) bool { return q == p })
}

// merge has the index merge a record, unless a rule is left out.
func (d *directory) merge(r fallback.Record) {
	now, ok, _ := d.index.Get(key)
	waits, more := listOf(now), listOf(r)
	switch {
	case ok && now.Op == fallback.OpOperations && d.without.has(setComesLast) && r.Op != fallback.OpOperations && r.Stamp < waits.Ops[0].Stamp:
		base := deferred.Del(r.Stamp)
		if r.Op == fallback.OpSet {
			base = deferred.Set(r.Stamp, r.Value, r.Expires)
		}
		waits.Ops = append([]deferred.Op{base}, waits.Ops...)
	case ok && len(more.Ops) == 1 && d.without.has(openedIsNotAddedTo) && waits.Opened && waits.ID == more.ID && r.Stamp > now.Stamp:
		sum := deferred.LogOf(deferred.List{ID: waits.ID, Ops: waits.Ops}).With(more.Ops) // as if it were not opened
		waits, _ = deferred.Parse(sum.String())
		waits.Opened = true
	default:
		_ = d.index.Put(forever, r)
		return
	}
	d.index.Settle(now)
	_ = d.index.Put(forever, fallback.Record{Op: fallback.OpOperations, Key: key, Stamp: waits.Last(), Slack: max(now.Slack, r.Slack), Value: waits.String()})
}

// settle is Dir.Settle. The disk takes the note in time: a process that is killed while the disk hangs may find again what
// it had settled.
func (d *directory) settle(r fallback.Record) {
	if s, ok := d.index.Stamp(key); ok && s == r.Stamp {
		d.journal = append(d.journal, entry{record: fallback.Record{Stamp: r.Stamp}, settled: true})
	}
	d.index.Settle(r)
}

// flush takes a step of a round of the flusher.
func (d *directory) flush() {
	switch r := d.round; {
	case r == nil:
		d.round = &round{mark: len(d.journal), before: slices.Clone(d.puts)}
		if d.without.has(journalOutlivesFlush) {
			d.journal, d.round.mark = nil, 0
		}
	case !r.written:
		for _, p := range r.before {
			if !p.merged {
				return
			}
		}
		d.file, d.hasFile, _ = d.index.Get(key)
		r.written = true
	default:
		d.journal = slices.Clone(d.journal[r.mark:])
		d.round = nil
	}
}

// stampsOf are the times of the operations of a list.
func stampsOf(l deferred.List) (all []string) {
	for _, op := range l.Ops {
		packed, _ := stamp.Packed(op.Stamp)
		all = append(all, packed)
	}
	return all
}

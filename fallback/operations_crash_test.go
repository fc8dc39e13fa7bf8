package fallback

import (
	"context"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/vfs"
)

// keyHistory makes for one key what a Client does: each write has a later stamp than the one before,
// operations bring along the Set or Del that waits, unless it came behind their look at the store, and go
// on with the list that waits. It knows what the store is to have after each step.
type keyHistory struct {
	second int64
	list   int64    // in which second the list began that waits; 0: none does
	base   *Record  // the Set or Del that waits
	state  string   // what waits, as shape has it; "": nothing
	states []string // after each step
	acked  int      // how many of states there were when a Put was acknowledged last
}

func (h *keyHistory) step(d *Dir, kind string) {
	h.second++
	var puts []Record
	switch kind {
	case "set", "del":
		r := Record{Op: Op(kind), Key: "k", Stamp: madeAt(h.second), Slack: 5}
		if kind == "set" {
			r.Value, r.Expires = "v", in(1<<50)
		}
		puts, h.list, h.base, h.state = []Record{r}, 0, &r, kind+r.Stamp
	case "operation", "operation behind":
		if h.base != nil {
			first := baseOf(*h.base)
			h.state = strings.Join(first.Command, " ")
			if kind == "operation" {
				l := deferred.List{ID: madeAt(h.second), Ops: []deferred.Op{first}}
				puts = append(puts, Record{Op: OpOperations, Key: "k", Stamp: h.base.Stamp, Slack: 5, Value: l.String()})
				h.states = append(h.states, h.state) // of two records the first may be there
			}
		}
		if h.list == 0 {
			h.list = h.second
		}
		add := "SADD " + strconv.FormatInt(h.second, 10)
		if h.base = nil; h.state != "" {
			h.state += ", "
		}
		h.state += add
		puts = append(puts, change("k", h.list, h.second, add))
	case "opened":
		if h.list == 0 {
			return
		}
		if puts = []Record{opened("k", h.list)}; h.state[:2] != "op" {
			h.state = "opened, " + h.state
		}
	case "settle":
		if r, ok, err := d.Get("k"); ok && err == nil {
			d.Settle(r)
		}
		h.list, h.base, h.state = 0, nil, ""
	case "flush":
		_ = flush(d) // it may be cut
		return
	}
	h.states = append(h.states, h.state)
	if len(puts) > 0 && d.Put(context.Background(), puts...) == nil {
		h.acked = len(h.states)
	}
}

// allowed are the states that may be there after a crash: that of the last acknowledged Put, those of
// settlements after it, which are durable late, and that of a Put whose answer never came.
func (h *keyHistory) allowed() []string { return h.states[max(h.acked-1, 0):] }

// The process is killed, or power fails, before any call to the disk, and again while that is mended, also by
// a process of another database: what was replayed and settled is in no list that came after it, what was
// acknowledged is, and so is that a list was opened. A relapse has a DEL or SET of before, or lacks an
// operation.
func TestAListIsWhatItWasWhereverItIsCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kinds := rapid.SliceOfN(rapid.SampledFrom([]string{"set", "del", "operation", "operation", "operation behind", "opened", "settle", "settle", "flush", "flush"}), 1, 16).Draw(t, "steps")
		o := rapid.SampledFrom([]Options{stores()["with memory"], stores()["without memory"]}).Draw(t, "options")
		next := o // it goes through the hands of a process of this or another database
		next.DB = rapid.SampledFrom([]int{o.DB, 7}).Draw(t, "next database")
		again := rapid.IntRange(1, 12).Draw(t, "again")
		run := func(cut int) (*vfs.Mem, *keyHistory) {
			m := vfs.NewMem()
			if cut > 0 {
				m.CutAt(cut)
			}
			h := &keyHistory{states: []string{""}, acked: 1}
			d, err := OpenFS(m, o)
			if err != nil {
				return m, h
			}
			for _, kind := range kinds {
				h.step(d, kind)
			}
			_ = d.Close(context.Background())
			<-d.done
			return m, h
		}
		whole, _ := run(0)
		for cut := 1; cut <= whole.Calls()+2; cut++ {
			for seed := range uint64(3) {
				m, h := run(cut)
				if seed == 0 {
					m = m.Kill()
				} else {
					m = m.Crash(seed)
				}
				m = throughOthers(m, next, again)
				for range 2 {
					d, err := OpenFS(m, o)
					require.NoError(t, err)
					got, ok, err := d.Get("k")
					require.NoError(t, err)
					state := ""
					if ok {
						if state = shape(got); got.Op != OpOperations {
							state += got.Stamp
						}
					}
					require.Contains(t, h.allowed(), state, "cut before call %d of %v, again before call %d by database %d, seed %d", cut, kinds, again, next.DB, seed)
					require.NoError(t, d.Close(context.Background()))
					h.states, h.acked = append(h.states, state), len(h.states)+1
				}
			}
		}
	})
}

// throughOthers has m opened with o by a process that ends before its cut-th call to the disk, and by one that does not. Either
// is killed in the end.
func throughOthers(m *vfs.Mem, o Options, cut int) *vfs.Mem {
	for _, cut := range []int{cut, math.MaxInt} {
		m.CutAt(cut)
		if d, err := OpenFS(m, o); err == nil {
			_ = flush(d)
			_ = d.Close(context.Background())
		}
		m = m.Kill()
	}
	return m
}

package storetest

import (
	"context"
	"errors"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/redaside/aside/fallback"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// verdicts says which rules a store breaks.
func verdicts(t *testing.T, open Open) map[string]error {
	broken := make(map[string]error)
	for _, rule := range rules() {
		if err := rule.verify(t, open); err != nil {
			broken[rule.name] = err
		}
	}
	return broken
}

func TestAStoreThatKeepsTheRulesPasses(t *testing.T) {
	require.Empty(t, verdicts(t, func(*testing.T) (fallback.Store, func() fallback.Store) { return fallback.NewMemory(0), nil }))
	place := func(t *testing.T) (fallback.Store, func() fallback.Store) {
		kept := &kept{}
		open := func() fallback.Store { return kept.open() }
		return open(), open
	}
	require.Empty(t, verdicts(t, place))
}

// kept is a store that outlives its process, as far as a test can tell.
type kept struct {
	*fallback.Memory
	records []fallback.Record
}

func (k *kept) open() fallback.Store {
	k.Memory = fallback.NewMemory(0)
	for _, r := range k.records {
		if r.Op == fallback.OpFill {
			k.Memory.Fill(r)
		} else if err := k.Memory.Put(context.Background(), r); err != nil {
			panic(err)
		}
	}
	k.records = nil
	return k
}

func (k *kept) Durable() bool { return true }

func (k *kept) Close(ctx context.Context) error {
	if k.records == nil {
		for _, op := range []fallback.Op{fallback.OpSet, fallback.OpDel, fallback.OpFill} {
			for r := range k.Records(op) {
				k.records = append(k.records, r)
			}
		}
	}
	_ = k.Memory.Close(ctx) // it says that all is lost
	return nil
}

// broken is a store with one fault.
type broken struct {
	*kept
	fault string
	first string
}

func (b *broken) Put(ctx context.Context, records ...fallback.Record) error {
	switch b.fault {
	case "the last to come wins":
		for _, r := range records {
			if now, ok, _ := b.Memory.Get(r.Key); ok {
				b.Memory.Settle(now)
			}
		}
	case "accepts anything":
		_ = b.kept.Put(ctx, records...)
		return nil
	case "ignores the context":
		ctx = context.Background()
	case "keeps no binary values":
		records = slices.Clone(records)
		for i := range records {
			records[i].Value = string([]rune(records[i].Value))
		}
	case "rounds the expiry":
		records = slices.Clone(records)
		for i := range records {
			records[i].Expires -= records[i].Expires % 1000
		}
	case "changes what it is given":
		clear(records[1:])
	}
	return b.kept.Put(ctx, records...)
}

func (b *broken) Fill(r fallback.Record) {
	switch b.fault {
	case "a fill replaces a set":
		if now, ok, _ := b.Memory.Get(r.Key); ok {
			b.Memory.Settle(now)
		}
	case "the last fill wins":
		if now, ok, _ := b.Memory.Get(r.Key); ok && now.Op == fallback.OpFill {
			b.Memory.Settle(now)
		}
	case "keeps expired fills":
		r.Expires = time.Now().Add(time.Hour).UnixMilli()
	}
	b.kept.Fill(r)
}

func (b *broken) Settle(records ...fallback.Record) {
	for _, r := range records {
		switch b.fault {
		case "settles whatever is there":
			if now, ok, _ := b.Memory.Get(r.Key); ok {
				r = now
			}
		case "settles nothing":
			continue
		}
		b.kept.Settle(r)
	}
}

func (b *broken) Pending(key string) bool {
	switch b.fault {
	case "fills are pending":
		_, ok := b.Memory.Stamp(key)
		return ok
	case "nothing is pending":
		return false
	}
	return b.kept.Pending(key)
}

func (b *broken) Stamp(key string) (string, bool) {
	if b.fault == "stamps of explicit records only" && !b.kept.Pending(key) {
		return "", false
	}
	return b.kept.Stamp(key)
}

func (b *broken) Records(op fallback.Op) iter.Seq[fallback.Record] {
	return func(yield func(fallback.Record) bool) {
		n := 0
		for r := range b.kept.Records(op) {
			if n++; b.fault == "leaves one out" && n == 7 {
				continue
			}
			if !yield(r) {
				return
			}
			if b.fault == "yields one twice" && n == 7 && !yield(r) {
				return
			}
		}
	}
}

func (b *broken) Latest() string {
	if b.fault == "the first stamp is the latest" {
		if b.first == "" {
			b.first = b.kept.Latest()
		}
		return b.first
	}
	return b.kept.Latest()
}

func (b *broken) Stats() fallback.Stats {
	s := b.kept.Stats()
	if b.fault == "counts fills as sets" {
		s.Sets += s.Fills
	}
	return s
}

func (b *broken) Durable() bool { return b.fault != "says that it forgets" }

var errAgain = errors.New("closed again")

func (b *broken) Close(ctx context.Context) error {
	switch b.fault {
	case "loses deletes":
		for r := range b.kept.Records(fallback.OpDel) {
			b.Memory.Settle(r)
		}
	case "cannot be closed twice":
		if b.records != nil {
			return errAgain
		}
	case "goes on after Close":
		return nil
	}
	return b.kept.Close(ctx)
}

func TestAStoreThatBreaksARuleFails(t *testing.T) {
	for fault, rule := range map[string]string{
		"the last to come wins":           "of two explicit records the one with the greater stamp stays, in whatever order they come",
		"keeps no binary values":          "what Put has accepted is what Get returns",
		"changes what it is given":        "what Put has accepted is what Get returns",
		"rounds the expiry":               "what Put has accepted is what Get returns",
		"accepts anything":                "Put of what cannot be replayed is an error, and nothing is remembered of it",
		"ignores the context":             "Put returns the error of a context that has ended",
		"a fill replaces a set":           "a fill never replaces an explicit record, and is always replaced by one",
		"the last fill wins":              "of two fills the one with the greater stamp stays",
		"keeps expired fills":             "an expired fill is gone, an expired set is not",
		"settles whatever is there":       "Settle forgets a record with just that stamp",
		"settles nothing":                 "what was settled may be written again",
		"fills are pending":               "Pending is true of explicit records only, and Stamp tells of all",
		"nothing is pending":              "Pending is true of explicit records only, and Stamp tells of all",
		"stamps of explicit records only": "Pending is true of explicit records only, and Stamp tells of all",
		"leaves one out":                  "Records yields every record with its op once",
		"yields one twice":                "Records yields every record with its op once",
		"the first stamp is the latest":   "Latest is the greatest stamp that was ever seen",
		"counts fills as sets":            "Stats counts what is there",
		"says that it forgets":            "a store that says it is durable has after Close and opening again all that was pending",
		"loses deletes":                   "a store that says it is durable has after Close and opening again all that was pending",
		"cannot be closed twice":          "after Close nothing is accepted or returned, and Close may be called again",
		"goes on after Close":             "after Close nothing is accepted or returned, and Close may be called again",
	} {
		t.Run(fault, func(t *testing.T) {
			found := verdicts(t, func(*testing.T) (fallback.Store, func() fallback.Store) {
				k := &kept{}
				open := func() fallback.Store {
					k.open()
					return &broken{kept: k, fault: fault}
				}
				return open(), open
			})
			assert.Error(t, found[rule], "found: %v", found)
		})
	}
}

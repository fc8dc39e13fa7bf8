// Package keeping has the decisions about what is kept for a key behind what waits already (docs/adr/0016), apart from who
// asks for them: the root, and the simulation of the ledger.
package keeping

import (
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/stamp"
)

// Records are what is put into the store for commands of by, where was waits for the key; list names the list of was, if that
// is one of operations. A Set or Del that waits comes along, as the first operation.
func Records(was fallback.Record, list string, by stamp.Proposal, commands [][]string) (records []fallback.Record) {
	more := deferred.Together(by.Text, by.Text, commands)
	base := deferred.Op{}
	switch was.Op {
	case fallback.OpOperations:
		more.ID = list
	case fallback.OpSet:
		base = deferred.Set(was.Stamp, was.Value, was.Expires)
	case fallback.OpDel:
		base = deferred.Del(was.Stamp)
	case fallback.OpFill:
	}
	if len(base.Command) > 0 {
		records = append(records, fallback.Record{Op: fallback.OpOperations, Key: was.Key, Stamp: was.Stamp, Slack: was.Slack, Value: deferred.List{ID: more.ID, Ops: []deferred.Op{base}}.String()})
	}
	return append(records, fallback.Record{Op: fallback.OpOperations, Key: was.Key, Stamp: by.Text, Slack: by.Slack, Value: more.String()})
}

// Opened is the note that a list was begun in its ledger.
func Opened(key, list string) fallback.Record {
	return fallback.Record{Op: fallback.OpOperations, Key: key, Stamp: list, Value: deferred.List{ID: list, Opened: true}.String()}
}

// Stands reports whether a Set or Del with that stamp, which operations have overtaken, need not be kept once more: a
// later Set or Del waits. That it is itself the store's record is not enough.
func Stands(there fallback.Record, stamp string) bool {
	return there.Stamp != stamp && (there.Op != fallback.OpOperations || there.Stamp < stamp)
}

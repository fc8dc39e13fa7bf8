package aside

import (
	"context"
	"fmt"
	"time"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/wire"
)

// Operations: what changes a key without its being known what it holds, so that it can be kept while
// Redis is away although the key cannot be read. docs/adr/0016 has the protocol.

// Operation is a Redis command that changes one key, without the key: {"INCRBY", "5"}, {"HSET", "field",
// "value"}. Those that can be kept while Redis is away are
//
//	INCR INCRBY DECR DECRBY INCRBYFLOAT APPEND SET SETNX DEL UNLINK
//	HSET HMSET HSETNX HDEL HINCRBY HINCRBYFLOAT SADD SREM LPUSH RPUSH
//	EXPIRE PEXPIRE EXPIREAT PEXPIREAT PERSIST
//
// without options, except EX, PX, EXAT and PXAT of SET.
type Operation []string

// Kept is what waits for replay of a key that has operations, and what follows from it.
type Kept struct {
	// Base is what the key held before Operations. They come after it.
	Base    Base
	Value   string    // of BaseString
	Expires time.Time // of BaseString; zero: never

	// Operations are in the order in which they will be done, each in one form: INCR and DECRBY are
	// an INCRBY, HMSET is HSET, EXPIRE is PEXPIREAT, UNLINK is DEL. Additions may be put together.
	Operations []Operation

	Now Content // after all of them

	headed bool // what Now has stands in Redis behind a header: no command of Redis's can read it
}

// Base says what is known of a key before its operations.
type Base int

// What a key may have held.
const (
	BaseUnknown Base = iota // only Redis knows, or memory, see Kept.Now
	BaseNothing             // nothing: this client has deleted it
	BaseString              // a string: this client has set it
)

// Content is what a key holds, as far as that follows from what this process knows.
type Content struct {
	Known  bool // the rest is so
	Exists bool // the key holds a string; false: it holds nothing
	Text   string
	Ends   time.Time // zero: never
}

func (n Content) value() deferred.Value {
	v := deferred.Value{Known: n.Known, Exists: n.Exists, Text: n.Text}
	if !n.Ends.IsZero() {
		v.Ends = n.Ends.UnixMilli()
	}
	return v
}

// cloneOperations has nothing of the caller's.
func cloneOperations(all []Operation) [][]string {
	out := make([][]string, len(all))
	for i, o := range all {
		out[i] = cloned(o)
	}
	return out
}

// waiting is what the store has of a key. Operations have a log in place of the Value.
type waiting struct {
	fallback.Record // without an Op: nothing that waits
	log             *deferred.Log
}

func waitingOf(record fallback.Record) (waiting, error) {
	switch record.Op {
	case fallback.OpOperations:
		l, err := deferred.Parse(record.Value)
		if err == nil && len(l.Ops) == 0 {
			err = errUnreadable
		}
		if err != nil {
			return waiting{}, unreadable(record.Key, err)
		}
		record.Value = ""
		return waiting{record, deferred.LogOf(l)}, nil
	case fallback.OpFill:
		return waiting{Record: fallback.Record{Key: record.Key}}, nil
	case fallback.OpSet, fallback.OpDel:
	}
	return waiting{Record: record}, nil
}

func unreadable(key string, err error) error {
	return fmt.Errorf("aside: the operations that wait for %s cannot be read: %w", quoted(key), err)
}

// bytes is how much of Options.MaxValueBytes it takes.
func (w waiting) bytes() int {
	if w.log != nil {
		return w.log.Len()
	}
	return len(w.Value)
}

// waiting returns what waits for a key. It reads all that does only where the store is the user's.
func (o *outbox) waiting(ctx context.Context, key string) (waiting, error) {
	if store, ok := o.Store.(interface {
		Operations(key string) (*deferred.Log, fallback.Record, bool)
	}); ok {
		if log, record, ok := store.Operations(key); ok {
			return waiting{record, log}, nil
		}
	}
	record, ok, err := o.read(ctx, key)
	if err != nil {
		return waiting{}, err
	}
	if !ok {
		record = fallback.Record{}
	}
	record.Key = key
	return waitingOf(record)
}

// asWrite is the Set or Del that a record of operations comes to; false if that does not follow from
// them.
func asWrite(record *fallback.Record) (fallback.Record, bool) {
	l, err := deferred.Parse(record.Value)
	if err != nil {
		return fallback.Record{}, false
	}
	after := deferred.Value{}.After(l.Ops)
	r := fallback.Record{Op: fallback.OpDel, Key: record.Key, Stamp: record.Stamp, Slack: record.Slack}
	if after.Exists {
		at, _ := stamp.Micros(record.Stamp)
		r.Op, r.Value, r.Expires = fallback.OpSet, after.Text, after.Ends
		if after.Ends == 0 {
			r.Expires = at/1000 + script.Milliseconds(wire.Endless)
		}
	}
	return r, after.Known
}

package resp

import (
	"slices"
	"strconv"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// What is known of a key that has kept operations: what it held before, as far as that is known, and
// each of them done on that. It is worked out anew for each command, so that there is one truth, on
// disk.

// fold returns what is known of a key by what waits for it; before: what the key held before that, as it was read, to be
// changed. nil: nobody knows.
func fold(k proxy.Kept, now time.Time, before *entry) *entry {
	if k.Base != aside.BaseUnknown && k.Kept.Now.Known {
		return knownAs(k.Now.Value, !k.Now.Deleted)
	}
	s := newStage(1 << 30)
	s.now = now
	switch k.Base {
	case aside.BaseNothing:
		s.known[""] = &entry{}
	case aside.BaseString:
		s.known[""] = knownAs(k.Value, k.Value.TTL != 0)
	case aside.BaseUnknown:
		if before != nil {
			s.known[""] = before
		}
	}
	operations := fromLatestWhole(k.Operations)
	for i, o := range operations {
		if ends, ok := endOfOperation(o); ok && ends <= now.UnixMilli() && i < len(operations)-1 {
			return unknown() // nobody can tell which of the later ones came before that
		}
		s.do(steps[o[0]], append([]string{""}, o[1:]...))
		if s.missing { // what it has made of the key only Redis knows
			s.missing = false
			s.known[""] = unknown()
		}
	}
	e := s.entry("")
	if e.part && len(e.fields) == 0 && len(e.members) == 0 && len(e.head) == 0 && len(e.tail) == 0 && k.Kept.Now.Known && !k.Now.Deleted {
		e.kind, e.Value, e.vague = aString, k.Now.Value, true // memory had it before, and others may have changed it since
		e.exists, e.endUnknown = len(operations) > 0 && e.exists, true
	}
	return e
}

func unknown() *entry { return &entry{part: true, endUnknown: true} }

// fromLatestWhole leaves out what a later operation has made an end of.
func fromLatestWhole(all []aside.Operation) []aside.Operation {
	for i, o := range slices.Backward(all) {
		if o[0] == "DEL" || o[0] == "SET" {
			return all[i:]
		}
	}
	return all
}

// endOfOperation is the end, in ms since 1970, that an operation gives its key.
func endOfOperation(o aside.Operation) (int64, bool) {
	text := ""
	switch {
	case o[0] == "PEXPIREAT":
		text = o[1]
	case o[0] == "SET" && len(o) == 4:
		text = o[3]
	}
	ends, err := strconv.ParseInt(text, 10, 64)
	return ends, err == nil
}

// operationOf is a command on one key as what is kept of it; false if it cannot be.
func (c *conn) operationOf(name string, args []string) (aside.Operation, bool) {
	if kind := outageOf(name, args); kind != KeptAsOperation && kind != Kept {
		return nil, false
	}
	pack := c.server.store.Pack
	switch name {
	case "DEL", "UNLINK":
		return aside.Operation{"DEL"}, len(args) == 1
	case "SET":
		return append(aside.Operation{"SET", pack(args[1])}, args[2:]...), true
	case "SETEX":
		return aside.Operation{"SET", pack(args[2]), "EX", args[1]}, true
	case "PSETEX":
		return aside.Operation{"SET", pack(args[2]), "PX", args[1]}, true
	case "MSET":
		if len(args) != 2 {
			return nil, false
		}
		return aside.Operation{"SET", pack(args[1])}, true
	}
	return append(aside.Operation{name}, args[1:]...), true
}

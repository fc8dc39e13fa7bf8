package ops

import (
	"time"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/stamp"
)

// Operations tells of a record of operations what somebody asks first.
type Operations struct {
	Count    int       `json:"count"`          // commands that are to be done; additions of a second are one
	Commands []string  `json:"commands"`       // their names, each once, in the order in which they first come
	Since    time.Time `json:"since,omitzero"` // when the first was made
	Sent     bool      `json:"sent"`           // a replay has begun: Redis may have done some
}

// Operations says of a record what operations it has; false if it has none, or they cannot be read.
func (r *Record) Operations() (Operations, bool) {
	if r.Op != fallback.OpOperations {
		return Operations{}, false
	}
	l, err := deferred.Parse(r.Value)
	if err != nil || len(l.Ops) == 0 {
		return Operations{}, false
	}
	o := Operations{Count: len(l.Ops), Sent: l.Opened}
	if µs, ok := stamp.Micros(l.Ops[0].Stamp); ok {
		o.Since = time.UnixMicro(µs).UTC()
	}
	seen := make(map[string]bool)
	for _, op := range l.Ops {
		if name := op.Command[0]; !seen[name] {
			seen[name] = true
			o.Commands = append(o.Commands, name)
		}
	}
	return o, true
}

// Commands are the operations that a record has, without their key.
func (r *Record) Commands() (all [][]string) {
	l, err := deferred.Parse(r.Value)
	if err != nil {
		return nil
	}
	for _, op := range l.Ops {
		all = append(all, op.Command)
	}
	return all
}

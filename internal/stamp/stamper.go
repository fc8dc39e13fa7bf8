package stamp

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"sync"
	"time"
)

// Proposal is a stamp for an operation that is about to be done.
type Proposal struct {
	Text  string // as records have it; Packed makes of it what scripts take
	Slack int64  // by how many µs its time may be off the server's clock; negative: nobody knows
}

// Packed returns the stamp as scripts take it.
func (p Proposal) Packed() string {
	s, _ := Packed(p.Text)
	return s
}

// Stamper makes the stamps of a client. Safe for concurrent use.
type Stamper struct {
	client    string // immutable after New, as is mostAhead
	mostAhead int64  // µs by which stamps may run ahead of a clock that can be trusted

	mu     sync.Mutex
	last   int64 // time of the latest stamp, of whatever shard: keys move, and a key's stamps must grow; guarded by mu
	number int64 // of the latest operation; guarded by mu
}

// New returns the Stamper of a client that nobody has been before. See Next for mostAhead.
func New(mostAhead time.Duration) (*Stamper, error) {
	var id [clientLen / 2]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("aside: no randomness for the client's id: %w", err)
	}
	return &Stamper{client: hex.EncodeToString(id[:]), mostAhead: mostAhead.Microseconds()}, nil
}

// Client returns the client's id.
func (st *Stamper) Client() string { return st.client }

// After makes sure that stamps to come are greater than s, which another process has left on this
// disk.
func (st *Stamper) After(s string) {
	if t, ok := Micros(s); ok {
		st.mu.Lock()
		defer st.mu.Unlock()
		st.last = max(st.last, t)
	}
}

// Next returns the stamp of an operation that happens now, by a clock that may be off by slack.
// Stamps may have run ahead of a clock that can be trusted, by more than mostAhead: a clock made
// them that could not. They come back to it once mayFall reports that nothing is left that they
// must be greater than.
func (st *Stamper) Next(now, slack int64, mayFall func() bool) Proposal {
	return st.NextOf(1, now, slack, mayFall)
}

// NextOf is Next for n operations that happen at once, of which it returns the last one's stamp. Each of the
// others has a microsecond and a number less than the one behind it, and no other operation is among them.
func (st *Stamper) NextOf(n int, now, slack int64, mayFall func() bool) Proposal {
	st.mu.Lock()
	if slack >= 0 && st.last > now+st.mostAhead && mayFall() {
		st.last = now
	}
	st.number += int64(n)
	number, t := st.number, max(now, st.last+1)+int64(n-1)
	st.last = t
	st.mu.Unlock()
	if slack >= 0 {
		slack += t - now
	}
	return Proposal{Text: Stamp{Micros: t, Client: st.client, Number: number}.String(), Slack: slack}
}

// Latest is the number of the latest operation; 0: there was none.
func (st *Stamper) Latest() int64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.number
}

// Load returns the stamp of a value that was loaded at t. It has no number, as a load is no
// operation.
func (st *Stamper) Load(t int64) string { return Stamp{Micros: t, Client: st.client}.String() }

// Of returns the Stamper of a client that has that id, of 16 hexadecimal digits, and that nobody else is: in a
// simulation it is known before.
func Of(client string, mostAhead time.Duration) *Stamper {
	return &Stamper{client: client, mostAhead: mostAhead.Microseconds()}
}

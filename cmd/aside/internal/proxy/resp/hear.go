package resp

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/cmd/aside/internal/proxy/upstream"
	"github.com/redaside/aside/internal/slot"
)

// With Options.Collections hashes, sets and lists that clients read are remembered, as a whole or the fields and members that they
// have asked for (part), and answered from that while Redis is away (ADR 16). Such a read is passed on as any other, between two commands of ours:
//
//	CLIENT CACHING YES   Redis tells the library's connection when what is read next changes
//	HGETALL k            the client's
//	PTTL k               when it ends
//
// In a cluster all this is so for each node: its connections, of the proxy and of the library, its id and run_id, its proofs. The three commands
// go to the node of the key's slot. What was sent elsewhere as well, by MOVED or ASK, or again, is not remembered, as none can tell what was told where. Nor is
// that there was nothing: a slot that moves takes its keys along, each of which its node tells of, but nobody tells of one that comes to be at the other node.
//
// What is remembered has its place in the library's memory, which drops it by what it hears, as a value. While it is
// there, reads of the key are passed on alone.
//
// Redis forgets what a connection has read when that ends, and tells nobody. So what was read counts only if its
// connection was alive when it was last proven that the library hears (upstream.Hearing), or hearsWithin before.

const (
	hearsEvery  = time.Second      // a connection that has been silent for so long is asked for a sign of life
	hearsWithin = 10 * time.Second // at most between its latest and the library's, or what was read by it is not known
	retryEvery  = time.Minute      // after Redis has refused mostRefused times in a row: once may be that the library's connection has just ended
	mostRefused = 5
	mostHeard   = 256 << 10 // bytes of a reply that is remembered
	besideBytes = 128       // what the commands of ours take
	heardHead   = 9         // bytes before what was read
)

// heardKinds are the letters before what is remembered.
var heardKinds = map[byte]kind{'h': aHash, 's': aSet, 'l': aList, '-': "", fieldsPart: aHash, membersPart: aSet}

// hearing is a read that is under way, and may be remembered.
type hearing struct {
	aside.ReadReservation
	target *aside.RedirectTarget // of that
	wanted wanted
	at     int // of its command, among those that were gathered
}

// wanted is what a command reads of a key that is to be remembered.
type wanted struct {
	letter byte     // of heardKinds; 0: nothing is
	names  []string // of fields or members; nil: it is all of the key
}

// wantedOf is what a command reads that can be remembered.
func wantedOf(name string, args []string) wanted {
	if letter := wholeRead(name, args); letter != 0 {
		return wanted{letter: letter}
	}
	return partRead(name, args)
}

// wholeRead is the letter of what a command reads as a whole; 0: it does not.
func wholeRead(name string, args []string) byte {
	switch {
	case name == "HGETALL" && len(args) == 2:
		return 'h'
	case name == "SMEMBERS" && len(args) == 2:
		return 's'
	case name == "LRANGE" && len(args) == 4 && args[2] == "0" && args[3] == "-1":
		return 'l'
	}
	return 0
}

// targetAt is the connection on which the server at an address tells of changes; nil: not known yet.
func (s *Server) targetAt(address string) *aside.RedirectTarget {
	target, ok := s.targets.Load(address)
	if !ok {
		return nil
	}
	return target.(*aside.RedirectTarget)
}

// addressOf is where changes of a key are told: "", or in a cluster the primary of its slot. ok: that is known.
func (s *Server) addressOf(key string) (address string, ok bool) {
	if !s.inCluster() {
		return "", true
	}
	address = s.pool.AddressOf(slot.Of(key))
	return address, address != ""
}

// mayHear is what of a command is to be remembered, and is not yet, and where its changes are told; nil: nothing is.
func (c *conn) mayHear(command *upstream.Command, args []string) (w wanted, target *aside.RedirectTarget) {
	s := c.server
	if !s.options.Collections || !command.ReadOnly || c.user != nil {
		return w, nil
	}
	w = wantedOf(command.Name, args)
	if w.letter == 0 || s.store.IsStrict(args[1]) {
		return w, nil
	}
	address, known := s.addressOf(args[1])
	if !known {
		return w, nil
	}
	target = s.targetAt(address)
	if target == nil || !target.Listens() || !s.pool.Hears(address, c.protocol(), target) {
		s.hearNow()
		return w, nil
	}
	if content, _, ok := s.store.Client().Redirected(args[1]); ok && s.hearingOf(content) != nil && w.isIn(content) {
		return w, nil
	}
	return w, target
}

// addHeard is addCall of a command whose reply is to be remembered, and whose changes are told at target.
func (c *conn) addHeard(args []string, size int, call passed, w wanted, target *aside.RedirectTarget) *passing {
	p := c.roomFor(size+besideBytes+len(args[1]), 3)
	if p == nil {
		return nil
	}
	p.addBeside(call, "CLIENT", "CACHING", "YES")
	if w.names != nil {
		w.names = cloned(w.names)
	}
	p.heard = append(p.heard, hearing{target.Reserve(strings.Clone(args[1])), target, w, len(p.calls)})
	c.addTo(p, args, call)
	p.addBeside(call, "PTTL", args[1])
	return p
}

// addBeside adds a command of ours, which belongs to a client's and goes where that goes.
func (p *passing) addBeside(to passed, args ...string) {
	if to.placed {
		p.batch.AddAt(args, to.place)
	} else {
		p.batch.Add(args)
	}
	p.calls = append(p.calls, passed{name: to.name, beside: true, placed: to.placed, place: to.place})
}

// heardIn is the Hearing in which a read and what goes with it were sent, to one server; nil: in none, or not in that for which it was reserved.
func (p *passing) heardIn(one hearing) *upstream.Hearing {
	h := p.batch.Heard(one.at)
	if h == nil || h.Target != one.target || p.batch.Heard(one.at-1) != h || p.batch.Heard(one.at+1) != h {
		return nil
	}
	return h
}

// keepHeard remembers what was read, now that all is answered.
func (c *conn) keepHeard(p *passing, err error) {
	if err != nil {
		return
	}
	for _, one := range p.heard {
		reply, ends := p.batch.Reply(one.at), p.batch.Reply(one.at+1)
		h := p.heardIn(one)
		if h == nil || !p.batch.Cached(one.at-1) || len(reply) == 0 || len(reply) > mostHeard || len(ends) < 4 || ends[0] != ':' {
			continue
		}
		left, err := strconv.ParseInt(string(ends[1:len(ends)-2]), 10, 64)
		if err != nil {
			continue
		}
		if left == -2 && c.server.inCluster() { // nobody would tell of it if its slot moved, and it came to be there
			continue
		}
		ttl := time.Duration(left) * time.Millisecond
		if left < 0 || left > aside.LongestTTL.Milliseconds() {
			ttl = -1
		}
		if one.wanted.names != nil {
			c.server.keepPart(one, h.Number, reply, left == -2, ttl)
			continue
		}
		nothing := len(reply) == 4 && reply[1] == '0'
		switch letter := one.wanted.letter; {
		case reply[0] != '*' && reply[0] != '%' && reply[0] != '~', nothing != (left == -2): // refused, or changed in between
		case nothing:
			one.Keep(heardContent(h.Number, '-', nil), -1)
		default:
			one.Keep(heardContent(h.Number, letter, reply), ttl)
		}
	}
}

// heardContent is what is remembered: the number of the Hearing, a letter, and what was read.
func heardContent(number uint64, letter byte, read []byte) string {
	content := binary.BigEndian.AppendUint64(make([]byte, 0, len(read)+heardHead), number)
	return string(append(append(content, letter), read...))
}

// hearingOf is that in which what is remembered was read; nil: it counts no more, as it is not the latest of its connection.
func (s *Server) hearingOf(content string) *upstream.Hearing {
	if len(content) < heardHead {
		return nil
	}
	return s.pool.Numbered(binary.BigEndian.Uint64([]byte(content)))
}

// heard is what is remembered of a key, while Redis is away; nil: nothing.
func (s *Server) heard(key string) *entry {
	e, _ := s.recall(key, (*aside.Client).Redirected)
	return e
}

// heardBefore is what was remembered of a key before operations on it were kept in this outage, and that as it is remembered; nil: nothing.
func (s *Server) heardBefore(key string) (*entry, string) {
	return s.recall(key, (*aside.Client).RedirectedBefore)
}

func (s *Server) recall(key string, from func(*aside.Client, string) (string, time.Duration, bool)) (*entry, string) {
	if !s.options.Collections || s.pool == nil || s.store.IsStrict(key) {
		return nil, ""
	}
	content, ttl, ok := from(s.store.Client(), key)
	if !ok {
		return nil, ""
	}
	return s.entryOf(content, ttl), content
}

// entryOf reads what is remembered, with what is left of the key's life; nil if it counts no more.
func (s *Server) entryOf(content string, ttl time.Duration) *entry {
	h := s.hearingOf(content)
	if h == nil {
		return nil
	}
	proven := h.Target.(*aside.RedirectTarget).Proven()
	if !h.Alive(proven, hearsWithin) {
		return nil
	}
	letter := content[heardHead-1]
	e := &entry{kind: heardKinds[letter], exists: letter != '-'}
	if !e.exists {
		return e
	}
	if e.TTL = ttl; ttl < 0 {
		e.TTL = proxy.NoExpiry
	}
	if letter == fieldsPart || letter == membersPart {
		return part(content).entry(e, proven.Sub(s.began))
	}
	elements, err := upstream.Elements([]byte(content[heardHead:]))
	if err != nil {
		return nil
	}
	switch e.kind {
	case aHash:
		e.fields, e.members = make(map[string]hashField, len(elements)/2), map[string]bool{}
		for pair := range slices.Chunk(elements, 2) {
			e.fields[pair[0]] = hashField{value: pair[1], there: true}
		}
	case aSet:
		e.fields, e.members = map[string]hashField{}, make(map[string]bool, len(elements))
		for _, one := range elements {
			e.members[one] = true
		}
	default:
		e.fields, e.members, e.tail = map[string]hashField{}, map[string]bool{}, elements
	}
	return e
}

// hearNow has the connections listen that do not.
func (s *Server) hearNow() {
	select {
	case s.listen <- struct{}{}:
	default:
	}
}

// ear is what hears knows of the connections to one server.
type ear struct {
	busy      atomic.Bool // somebody is at it, and what follows is his
	refusals  int         // in a row
	notBefore time.Time   // when it is tried again
}

// hears keeps the connections listening, until the Server is closed.
func (s *Server) hears() {
	ticks := time.NewTicker(hearsEvery)
	defer ticks.Stop()
	ears := make(map[string]*ear) // by the servers' addresses
	for {
		shards := s.store.Client().Health().Shards
		for _, shard := range shards {
			e := ears[shard.Addr]
			if e == nil {
				e = new(ear)
				ears[shard.Addr] = e
			}
			if shard.Mode == aside.Healthy && e.busy.CompareAndSwap(false, true) {
				s.listening.Go(func() { // ends within Options.RequestTimeout, so a server that hangs does not hold up the others
					defer e.busy.Store(false)
					s.hear(e, shard.Addr)
				})
			}
		}
		for address, e := range ears {
			if !e.busy.Load() && !slices.ContainsFunc(shards, func(shard aside.ShardHealth) bool { return shard.Addr == address }) {
				delete(ears, address) // it has left
				s.targets.Delete(address)
			}
		}
		select {
		case <-ticks.C:
		case <-s.listen:
		case <-s.ctx.Done():
			return
		}
	}
}

// hear is hearOnce, unless the server at an address has refused it.
func (s *Server) hear(e *ear, address string) {
	now := time.Now()
	if now.Before(e.notBefore) {
		return
	}
	refused := s.hearOnce(address)
	if e.refusals++; refused == nil {
		e.refusals = 0
	}
	if e.refusals >= mostRefused {
		e.notBefore = now.Add(retryEvery)
		s.options.Logger.Warn("resp: hashes, sets and lists that are read are not remembered for an outage", "server", address, "error", refused, "again in", retryEvery)
	}
}

// hearOnce has the connections to the server at an address listen that do not, and asks those for a sign of life that do. The error is a
// refusal, which will not pass soon.
func (s *Server) hearOnce(address string) error {
	ctx, cancel := context.WithTimeout(s.ctx, s.options.RequestTimeout)
	defer cancel()
	target := s.targetAt(address)
	if target == nil || !target.Listens() {
		var err error
		if target, err = s.store.Client().RedirectTarget(ctx, address); errors.Is(err, aside.ErrNoInvalidations) {
			return err
		} else if err != nil {
			return nil // it is asked again
		}
		s.targets.Store(address, target)
	}
	alive := func() bool { return s.alive() && s.up(address) && ctx.Err() == nil }
	for _, protocol := range []int{2, 3} {
		if s.pool.Hears(address, protocol, target) {
			if !s.pool.Hearing(address, protocol).Alive(time.Now(), hearsEvery) {
				_ = s.pool.Prove(address, protocol, alive) // whoever needs it finds out that there is none
			}
			continue
		}
		err := s.pool.Listen(ctx, address, protocol, target.Server, target.ID, target, alive)
		if err != nil && target.Listens() && !errors.Is(err, upstream.ErrNotSent) && !errors.Is(err, upstream.ErrLost) {
			return err
		}
	}
	return nil
}

package resp

import (
	"bytes"
	"maps"
	"slices"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy/upstream"
	"github.com/redaside/aside/internal/slot"
)

// To its clients the proxy is one server, also in front of a Redis Cluster. What is passed on goes to
// the primary of its keys' slot; what has no key, always to the same one for a client, so that its
// messages keep their order; what concerns all primaries (SCRIPT LOAD, FLUSHDB) to all of them.
//
// A transaction is at one node. Which, its first key says: MULTI is answered here, and sent with the
// command behind it. A connection that is opened for a transaction, a blocking command or a
// subscription stays where it is; if its first commands are answered MOVED, it is opened anew where
// that says. MOVED and ASK never reach clients, who would not know what to do with them.

const (
	crossSlot   = "CROSSSLOT Keys in request don't hash to the same slot"
	slotMoves   = "TRYAGAIN the slot of these keys has moved, or is moving, to another node: nothing was done"
	mostFollows = 5 // of MOVED and ASK, for a connection of a client's own
)

// Kinds of the Redis behind, once they are known.
const (
	oneServer int32 = iota + 1
	manyServers
)

// inCluster reports whether Redis is a cluster; false as long as that is not known.
func (s *Server) inCluster() bool {
	kind := s.kind.Load()
	if kind == 0 {
		redis, ok := s.store.Client().Redis()
		if !ok {
			return false
		}
		if kind = oneServer; redis.Mode() == rueidis.ClientModeCluster {
			kind = manyServers
		}
		s.kind.Store(kind)
	}
	return kind == manyServers
}

// nodes are the addresses of a cluster's nodes; nil if Redis is none.
func (s *Server) nodes() []string {
	redis, ok := s.store.Client().Redis()
	if !ok || redis.Mode() != rueidis.ClientModeCluster {
		return nil
	}
	nodes := slices.Sorted(maps.Keys(redis.Nodes()))
	if len(nodes) == 0 { // the client that knows all is only being made
		for _, shard := range s.store.Client().Health().Shards {
			nodes = append(nodes, shard.Addr)
		}
	}
	return nodes
}

// up reports whether the library can use the node at an address, as far as it knows that.
func (s *Server) up(address string) bool {
	for _, shard := range s.store.Client().Health().Shards {
		if shard.Addr == address {
			return shard.Mode != aside.Degraded
		}
	}
	return true
}

// anySlot is the slot of commands of this client that have no key.
func (c *conn) anySlot() uint16 { return uint16(uint64(c.id) * 0x9e3779b97f4a7c15 >> 50) }

// placeOf says where in a cluster a command belongs.
func (c *conn) placeOf(command *upstream.Command, args, keys []string) upstream.Place {
	writes := command.Write || scripts[command.Name]
	if join := command.Join(args); join != nil {
		return upstream.Place{Join: join, Writes: writes}
	}
	return upstream.Place{Slot: c.slotOf(command, args, keys), Writes: writes}
}

// slotOf is the slot of a command's first key, or sharded channel.
func (c *conn) slotOf(command *upstream.Command, args, keys []string) uint16 {
	if len(keys) > 0 {
		return slot.Of(keys[0])
	}
	if channel, ok := command.Channel(args); ok {
		return slot.Of(channel)
	}
	return c.anySlot()
}

// tags names to Hear which nodes may have changed what no command has named.
func (c *conn) tags(p *passing) []string {
	if !c.server.inCluster() {
		return nil
	}
	var slots []uint16
	for _, call := range p.calls {
		if p.own || call.place.Join != nil {
			slots = nil
			break
		}
		slots = append(slots, call.place.Slot)
	}
	return c.server.pool.Tags(slots)
}

// partly reports whether some shards of the cluster are away, and others are not: then commands of
// several must not share what becomes of them.
func (s *Server) partly() bool {
	return s.inCluster() && s.store.Client().Health().Mode != aside.Healthy
}

// place is where in a cluster a client's own connection belongs.
type place struct {
	slot    uint16
	known   bool // by a key
	crossed bool // another key has another slot
	fresh   bool // the connection was just opened: nothing was done on it
	ahead   bool // MULTI was sent ahead of what was gathered
}

// concerns takes note of keys.
func (p *place) concerns(keys []string) {
	for _, key := range keys {
		n := slot.Of(key)
		p.crossed = p.crossed || p.known && n != p.slot
		if !p.known {
			p.known, p.slot = true, n
		}
	}
}

// openHeld opens a connection for a transaction whose MULTI was answered here.
func (c *conn) openHeld(n uint16) outcome {
	t := &c.transaction
	t.held = false
	outcome := c.openAt(n)
	if outcome == notPassed {
		if err := c.multiAhead(); err != nil {
			outcome = c.refuse(c.describeError(err, false))
			c.loseOwn()
		}
	}
	if outcome != notPassed {
		t.multi, c.aborted = false, true
	}
	return outcome
}

// multiAhead sends MULTI, which the client was told is done.
func (c *conn) multiAhead() error {
	var b upstream.Batch
	b.Add([]string{"MULTI"})
	t := &c.transaction
	err := t.own.Do(&b, c.inTime())
	if err == nil && !bytes.Equal(b.Replies, []byte("+OK\r\n")) {
		err = upstream.Refused(b.Replies)
	}
	t.place.ahead = true
	return err
}

// followOwn sends what was gathered for a connection that was just opened once more, where another
// node has its slot.
func (c *conn) followOwn(p *passing) error {
	t := &c.transaction
	for range mostFollows {
		moved := p.moved()
		if moved == nil || !p.place.fresh || p.place.crossed || p.exec && !bytes.HasPrefix(p.last(), []byte("-EXECABORT ")) {
			return nil
		}
		own, err := c.server.pool.Follow(c.ctx, t.own, p.place.slot, moved)
		if err != nil || own == nil {
			return err
		}
		t.own.Close()
		if t.own = own; p.exec {
			own.Wrote()
		}
		if p.place.ahead {
			if err := c.multiAhead(); err != nil {
				return err
			}
		}
		p.batch.Again()
		if err := own.Do(&p.batch, c.inTime()); err != nil {
			return err
		}
	}
	return nil
}

// moved is the first reply of MOVED; nil if there is none.
func (p *passing) moved() []byte {
	begin := 0
	for _, end := range p.batch.Ends {
		if reply := p.batch.Replies[begin:end]; bytes.HasPrefix(reply, []byte("-MOVED ")) {
			return bytes.Clone(reply)
		}
		begin = end
	}
	return nil
}

// redirected is the answer to a client whose own connection was answered by MOVED or ASK; "" if it
// was not.
func (p *passing) redirected(reply []byte) string {
	if !bytes.HasPrefix(reply, []byte("-MOVED ")) && !bytes.HasPrefix(reply, []byte("-ASK ")) {
		return ""
	}
	if p.place.crossed {
		return crossSlot
	}
	return slotMoves
}

// follow returns a connection to the node that a reply which came by own names; nil if it names none.
func (c *conn) follow(own *upstream.Own, n uint16, reply []byte) (next *upstream.Own, err error) {
	err = c.during(func() error {
		next, err = c.server.pool.Follow(c.ctx, own, n, reply)
		return err
	})
	return next, err
}

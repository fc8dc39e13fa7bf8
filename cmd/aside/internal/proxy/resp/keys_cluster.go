package resp

import (
	"errors"
	"slices"
	"strconv"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/cmd/aside/internal/proxy/upstream"
)

// Commands that list keys, before a Redis Cluster: all primaries are asked (upstream/scan.go). An answer is what all of them
// say, or an error.

const (
	slotsMoved     = "TRYAGAIN which node of the cluster has which slot has changed, so this would miss keys: begin again, SCAN with cursor 0"
	slotsUncovered = "CLUSTERDOWN some slots of the cluster are served by no node, so nobody knows their keys"
	cursorTooLarge = "ERR SCAN is not served for this Redis Cluster: a cursor of one of its nodes is too large, or they are more than 1,024; scan the nodes themselves"
	listsNothing   = " is not served for a Redis Cluster, whose nodes each know their own keys only, by a proxy that passes nothing on: ask them"
	listTooLarge   = "ASIDEBUSY the reply of a node is larger than what may be held now (service.max_receiving_bytes): ask with a smaller COUNT"
)

// lists reports whether commands that list keys can be done; it answers an error where they cannot.
func (c *conn) lists(command string) bool {
	if c.server.pool == nil && c.server.inCluster() {
		c.error("ERR " + command + listsNothing)
		return false
	}
	return true
}

// someAway reports whether Redis is away; before a cluster, whether a shard of it is: then nobody can list all keys.
func (s *Server) someAway() bool {
	if s.store.Away("") {
		return true
	}
	return s.inCluster() && slices.ContainsFunc(s.store.Client().Health().Shards, func(shard aside.ShardHealth) bool { return shard.Mode == aside.Degraded })
}

// clusterPage is SCAN of all primaries.
func (c *conn) clusterPage(args []string) (cursor string, all []string, err error) {
	if c.server.pool == nil { // when it was looked at, it was not known to be a cluster
		return "", nil, upstream.ServerError("ERR this" + listsNothing)
	}
	from, err := strconv.ParseUint(args[0], 10, 64)
	if err != nil {
		return "", nil, upstream.ServerError("ERR invalid cursor")
	}
	var next uint64
	err = c.askPrimaries(func(b *upstream.Batch) (err error) {
		next, all, err = c.server.pool.Scan(c.ctx, b, from, args[1:], c.inTime())
		return err
	})
	return strconv.FormatUint(next, 10), all, err
}

// clusterRandom asks the primaries for a key; false: there is none, or it is the library's own each time.
func (c *conn) clusterRandom() (key string, ok bool, err error) {
	err = c.askPrimaries(func(b *upstream.Batch) (err error) {
		key, ok, err = c.server.pool.RandomKey(c.ctx, b, randomKeys, func(key string) bool { return !proxy.Reserved(key) }, c.inTime())
		return err
	})
	return key, ok, err
}

func (c *conn) askPrimaries(ask func(b *upstream.Batch) error) error {
	b := &upstream.Batch{Share: c.server.store.Receiving().Share()}
	defer b.Reset()
	return c.server.store.Pass(c.ctx, proxy.Passing{}, func() error { return ask(b) })
}

// isOfList reports whether err is one of lists of a cluster's keys, and describeList is its reply.
func isOfList(err error) bool {
	return errors.Is(err, upstream.ErrLayout) || errors.Is(err, upstream.ErrUncovered) || errors.Is(err, upstream.ErrCursor) || errors.Is(err, upstream.ErrNoRoom)
}

func describeList(err error) string {
	switch {
	case errors.Is(err, upstream.ErrLayout):
		return slotsMoved
	case errors.Is(err, upstream.ErrUncovered):
		return slotsUncovered
	case errors.Is(err, upstream.ErrCursor):
		return cursorTooLarge
	}
	return listTooLarge
}

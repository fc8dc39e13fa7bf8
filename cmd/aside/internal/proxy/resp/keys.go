package resp

import (
	"fmt"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// Commands that list keys. They hide the library's own.

// one answers an error and returns false where a single server's answer is not everything.
func (c *conn) one(command string) bool {
	if c.server.inCluster() {
		c.error("ERR " + command + " is not served for a Redis Cluster, whose nodes each know their own keys only: ask them")
		return false
	}
	return true
}

// page asks Redis for some keys. While writes wait to be replayed it does not know them all, nor
// those that are gone.
func (c *conn) page(args ...string) (cursor string, found []string, err error) {
	if pending := c.server.store.Client().Stats().Pending; pending > 0 {
		return "", nil, fmt.Errorf("%w: %d writes wait to be replayed into Redis, so it cannot list the keys yet", proxy.ErrDegraded, pending)
	}
	reply, err := c.server.store.Ask(c.ctx, "SCAN", nil, args...)
	if err != nil {
		return "", nil, err
	}
	elements, err := reply.ToArray()
	if err == nil && len(elements) != 2 {
		err = fmt.Errorf("resp: SCAN answered %d elements", len(elements))
	}
	if err != nil {
		return "", nil, err
	}
	if cursor, err = elements[0].ToString(); err != nil {
		return "", nil, err
	}
	all, err := elements[1].AsStrSlice()
	for _, key := range all {
		if !proxy.Reserved(key) {
			found = append(found, key)
		}
	}
	return cursor, found, err
}

func scan(c *conn, args []string) {
	if !c.one("SCAN") || c.scanAway(args) {
		return
	}
	cursor, found, err := c.page(args...)
	if err != nil {
		c.fail(err)
		return
	}
	c.array(2)
	c.bulk(cursor)
	c.strings(found)
}

// each calls f with pages until there are no more. KEYS would hold up Redis, and with it everybody,
// until it has seen all keys.
func (c *conn) each(f func(found []string), args ...string) error {
	for cursor := "0"; ; {
		next, found, err := c.page(append([]string{cursor, "COUNT", "1000"}, args...)...)
		if err != nil {
			return err
		}
		f(found)
		if cursor = next; cursor == "0" {
			return nil
		}
	}
}

func keys(c *conn, args []string) {
	if !c.one("KEYS") {
		return
	}
	if c.listsKnown() {
		c.keysKnown(args[0])
		return
	}
	seen := make(map[string]bool)
	var all []string
	err := c.each(func(found []string) {
		for _, key := range found {
			if !seen[key] { // SCAN may name a key twice
				seen[key] = true
				all = append(all, key)
			}
		}
	}, "MATCH", args[0])
	if err != nil {
		c.fail(err)
		return
	}
	c.strings(all)
}

// randomKeys is how often Redis is asked for a random key that is not the library's own, before the
// first that a scan finds is taken.
const randomKeys = 100

func randomKey(c *conn, _ []string) {
	if !c.one("RANDOMKEY") {
		return
	}
	if c.listsKnown() {
		c.randomKnown()
		return
	}
	for range randomKeys {
		reply, err := c.server.store.Ask(c.ctx, "RANDOMKEY", nil)
		if err != nil {
			c.fail(err)
			return
		}
		key, err := reply.ToString()
		if err != nil {
			c.null()
			return
		}
		if !proxy.Reserved(key) {
			c.bulk(key)
			return
		}
	}
	for cursor := "0"; ; {
		next, found, err := c.page(cursor, "COUNT", "1000")
		if err != nil {
			c.fail(err)
			return
		}
		if len(found) > 0 {
			c.bulk(found[0])
			return
		}
		if cursor = next; cursor == "0" {
			c.null()
			return
		}
	}
}

func dbsize(c *conn, _ []string) {
	if !c.one("DBSIZE") {
		return
	}
	if c.listsKnown() {
		c.dbsizeKnown()
		return
	}
	var n int64
	if err := c.each(func(found []string) { n += int64(len(found)) }); err != nil {
		c.fail(err)
		return
	}
	c.int(n)
}

package resp

import (
	"fmt"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// Commands that list keys. They hide the library's own.

// page asks Redis for some keys. While writes wait to be replayed it does not know them all, nor
// those that are gone.
func (c *conn) page(args ...string) (cursor string, found []string, err error) {
	if pending := c.server.store.Client().Stats().Pending; pending > 0 {
		return "", nil, fmt.Errorf("%w: %d writes wait to be replayed into Redis, so it cannot list the keys yet", proxy.ErrDegraded, pending)
	}
	var all []string
	cluster := c.server.inCluster()
	if !cluster {
		cursor, all, err = c.ownPage(args)
	}
	if cluster || c.server.inCluster() { // that may be known only now
		cursor, all, err = c.clusterPage(args)
	}
	for _, key := range all {
		if !proxy.Reserved(key) {
			found = append(found, key)
		}
	}
	return cursor, found, err
}

// ownPage is SCAN of a server that has all keys.
func (c *conn) ownPage(args []string) (cursor string, all []string, err error) {
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
	all, err = elements[1].AsStrSlice()
	return cursor, all, err
}

func scan(c *conn, args []string) {
	if !c.lists("SCAN") || c.scanAway(args) {
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
	if !c.lists("KEYS") {
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
	if !c.lists("RANDOMKEY") {
		return
	}
	if c.listsKnown() {
		c.randomKnown()
		return
	}
	pick := c.ownRandom
	if c.server.inCluster() {
		pick = c.clusterRandom
	}
	key, ok, err := pick()
	if err == nil && !ok {
		key, ok, err = c.firstKey()
	}
	switch {
	case err != nil:
		c.fail(err)
	case ok:
		c.bulk(key)
	default:
		c.null()
	}
}

// ownRandom asks a server that has all keys for one; false: there is none, or it is the library's own each time.
func (c *conn) ownRandom() (key string, ok bool, err error) {
	for range randomKeys {
		reply, err := c.server.store.Ask(c.ctx, "RANDOMKEY", nil)
		if err != nil {
			return "", false, err
		}
		if key, err = reply.ToString(); err != nil {
			return "", false, nil //nolint:nilerr // there is none
		}
		if !proxy.Reserved(key) {
			return key, true, nil
		}
	}
	return "", false, nil
}

// firstKey is the first key that a scan finds; false: there is none.
func (c *conn) firstKey() (key string, ok bool, err error) {
	for cursor := "0"; ; {
		next, found, err := c.page(cursor, "COUNT", "1000")
		if err != nil {
			return "", false, err
		}
		if len(found) > 0 {
			return found[0], true, nil
		}
		if cursor = next; cursor == "0" {
			return "", false, nil
		}
	}
}

func dbsize(c *conn, _ []string) {
	if !c.lists("DBSIZE") {
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

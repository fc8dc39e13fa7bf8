package resp

import (
	"errors"
	"slices"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// Commands that read values, from memory where they are there.

// fits answers an error and returns false if one of keys is too long, or the library's own.
func (c *conn) fits(keys ...string) bool {
	for _, key := range keys {
		if proxy.Reserved(key) {
			c.fail(proxy.ErrReserved)
			return false
		}
		if len(key) > c.server.options.MaxKeyBytes {
			c.error(c.describeError(aside.ErrTooLarge, false))
			return false
		}
	}
	return true
}

// value returns what key holds. If it is nothing, or not known, that has been answered: by absent,
// or as an error.
func (c *conn) value(key string, absent func()) (proxy.Value, bool) {
	if !c.fits(key) {
		return proxy.Value{}, false
	}
	v, err := c.server.store.Get(c.ctx, key)
	switch {
	case err == nil:
		c.slow = v.Source == aside.SourceDisk
		return v, true
	case errors.Is(err, aside.ErrNotFound):
		absent()
	default:
		c.fail(err)
	}
	return proxy.Value{}, false
}

func get(c *conn, args []string) {
	if v, ok := c.value(args[0], c.null); ok {
		c.bulk(v.Data)
	}
}

func strlen(c *conn, args []string) {
	if v, ok := c.value(args[0], func() { c.int(0) }); ok {
		c.int(int64(len(v.Data)))
	}
}

func mget(c *conn, args []string) {
	values, ok := c.held(args)
	if !ok {
		return
	}
	c.array(len(args))
	for _, key := range args {
		if v, ok := values[key]; ok && !v.other {
			c.bulk(v.Data)
		} else {
			c.null()
		}
	}
}

// held is what a key holds: a value, or something of another type.
type held struct {
	proxy.Value
	other bool
}

// held is values; false if that is not known, or a key is too long, which has been answered.
func (c *conn) held(keys []string) (map[string]held, bool) {
	if !c.fits(keys...) {
		return nil, false
	}
	values, err := c.values(keys)
	if err != nil {
		c.fail(err)
	}
	return values, err == nil
}

// values returns what keys hold; those that hold nothing are left out.
func (c *conn) values(keys []string) (map[string]held, error) {
	keys = slices.Clone(keys) // the guard's list is filled again, perhaps before all who were asked have answered
	found, err := c.server.store.GetMulti(c.ctx, keys)
	values := make(map[string]held, len(found))
	for key, v := range found {
		values[key] = held{Value: v}
		c.slow = c.slow || v.Source == aside.SourceDisk
	}
	if err == nil || !isWrongType(err) {
		return values, err
	}
	for _, key := range keys { // one of them is no string: see which
		if _, ok := values[key]; ok {
			continue
		}
		switch v, err := c.server.store.Get(c.ctx, key); {
		case err == nil:
			values[key] = held{Value: v}
		case isWrongType(err):
			values[key] = held{other: true}
		case !errors.Is(err, aside.ErrNotFound):
			return nil, err
		}
	}
	return values, nil
}

// exists counts a key as often as it is named.
func exists(c *conn, args []string) {
	values, ok := c.held(args)
	if !ok {
		return
	}
	var n int64
	for _, key := range args {
		if _, ok := values[key]; ok {
			n++
		}
	}
	c.int(n)
}

func typeOf(c *conn, args []string) {
	if !c.fits(args...) {
		return
	}
	switch v, err := c.server.store.Get(c.ctx, args[0]); {
	case err == nil:
		c.slow = v.Source == aside.SourceDisk
		c.simple("string")
	case errors.Is(err, aside.ErrNotFound):
		c.simple("none")
	case isWrongType(err):
		reply, err := c.server.store.Ask(c.ctx, "TYPE", args[:1])
		if err != nil {
			c.fail(err)
			return
		}
		name, _ := reply.ToString()
		c.simple(name)
	default:
		c.fail(err)
	}
}

func ttl(c *conn, args []string)  { c.left("TTL", args[0], time.Second) }
func pttl(c *conn, args []string) { c.left("PTTL", args[0], time.Millisecond) }

// left answers how many units key has left, rounded as Redis does.
func (c *conn) left(command, key string, unit time.Duration) {
	if !c.fits(key) {
		return
	}
	switch v, err := c.server.store.Get(c.ctx, key); {
	case err == nil:
		c.slow = v.Source == aside.SourceDisk
		if v.TTL == proxy.NoExpiry {
			c.int(-1)
		} else {
			c.int(int64((v.TTL + unit/2) / unit))
		}
	case errors.Is(err, aside.ErrNotFound):
		c.int(-2)
	case isWrongType(err):
		reply, err := c.server.store.Ask(c.ctx, command, []string{key})
		if err != nil {
			c.fail(err)
			return
		}
		n, _ := reply.ToInt64()
		c.int(n)
	default:
		c.fail(err)
	}
}

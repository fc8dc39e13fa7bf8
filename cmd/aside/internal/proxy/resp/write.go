package resp

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// Commands that write without reading: done by Redis, or by the disk, for Redis.

// setOptions is what stands behind SET key value.
type setOptions struct {
	nx, xx, keepTTL, get bool
	unit                 string // EX, PX, EXAT, PXAT; "" if there is no end
	amount               string // of the unit
}

// parseSet reads the options as Redis 7 does: which exclude each other, and that the last of two
// alike counts.
func parseSet(args []string) (o setOptions, ok bool) {
	for i := 0; i < len(args); i++ {
		switch option := strings.ToUpper(args[i]); option {
		case "NX":
			if o.xx {
				return o, false
			}
			o.nx = true
		case "XX":
			if o.nx {
				return o, false
			}
			o.xx = true
		case "GET":
			o.get = true
		case "KEEPTTL":
			if o.unit != "" {
				return o, false
			}
			o.keepTTL = true
		case "EX", "PX", "EXAT", "PXAT":
			if o.keepTTL || o.unit != "" && o.unit != option || i+1 == len(args) {
				return o, false
			}
			i++
			o.unit, o.amount = option, args[i]
		default:
			return o, false
		}
	}
	return o, true
}

func set(c *conn, args []string) {
	if !c.fits(args[0]) {
		return
	}
	o, ok := parseSet(args[2:])
	if !ok {
		c.error(syntaxError)
		return
	}
	ttl := proxy.NoExpiry
	if o.unit != "" {
		if ttl, ok = c.expiry("set", o.unit, o.amount); !ok {
			return
		}
	}
	if o.nx || o.xx || o.keepTTL || o.get {
		c.setIf(args[0], args[1], o, ttl)
		return
	}
	if strings.HasSuffix(o.unit, "AT") && ttl > 0 && ttl != proxy.NoExpiry {
		c.putAt(args[0], args[1], o, ttl)
		return
	}
	c.put(args[0], args[1], ttl)
}

func setex(c *conn, args []string)  { c.setFor("setex", "EX", args) }
func psetex(c *conn, args []string) { c.setFor("psetex", "PX", args) }

func (c *conn) setFor(name, unit string, args []string) {
	if !c.fits(args[0]) {
		return
	}
	if ttl, ok := c.expiry(name, unit, args[1]); ok {
		c.put(args[0], args[2], ttl)
	}
}

// put sets a value and answers. A ttl of 0 has passed already.
func (c *conn) put(key, value string, ttl time.Duration) {
	var err error
	if ttl == 0 {
		err = c.server.store.Del(c.ctx, key)
	} else {
		err = c.server.store.Set(c.ctx, key, proxy.Value{Data: value, TTL: ttl})
	}
	if err != nil {
		c.failWrite(err)
		return
	}
	c.ok()
}

// expiry is endOf, and false if it was wrong, which has been answered.
func (c *conn) expiry(name, unit, amount string) (time.Duration, bool) {
	ttl, wrong := endOf(name, unit, amount)
	if wrong != "" {
		c.error(wrong)
	}
	return ttl, wrong == ""
}

// endOf reads the end of a value: the ttl, NoExpiry if it is too long to be one, 0 if it has
// passed. wrong: the error reply if it cannot be one.
func endOf(name, unit, amount string) (ttl time.Duration, wrong string) {
	n, ok := number(amount)
	if !ok {
		return 0, notInteger
	}
	now := time.Now().UnixMilli()
	millis, absolute := n, strings.HasSuffix(unit, "AT")
	if unit[0] == 'E' {
		millis = n * 1000
	}
	if n <= 0 || unit[0] == 'E' && n > math.MaxInt64/1000 || !absolute && millis > math.MaxInt64-now {
		return 0, "ERR invalid expire time in '" + name + "' command"
	}
	if absolute {
		millis = max(millis-now, 0)
	}
	if millis > proxy.LongestTTL.Milliseconds() {
		return proxy.NoExpiry, ""
	}
	return time.Duration(millis) * time.Millisecond, ""
}

// setsAtOnce is how many values of an MSET are on their way at once.
const setsAtOnce = 64

func mset(c *conn, args []string) {
	if len(args)%2 != 0 {
		c.error(wrongNumber("mset"))
		return
	}
	values := make(map[string]string, len(args)/2)
	for i := 0; i < len(args); i += 2 {
		if !c.fits(args[i]) {
			return
		}
		values[args[i]] = args[i+1] // of a key that is named twice, the last
	}
	var (
		sets   sync.WaitGroup
		places = make(chan struct{}, setsAtOnce)
		mu     sync.Mutex
		failed []error
	)
	ctx := c.ctx
	for key, value := range values {
		places <- struct{}{}
		sets.Go(func() { // ends with its Set, which heeds ctx
			defer func() { <-places }()
			if err := c.setSafely(ctx, key, value); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = append(failed, err)
			}
		})
	}
	sets.Wait()
	if len(failed) > 0 {
		worst := failed[0]
		if i := slices.IndexFunc(failed, func(err error) bool { return errors.Is(err, aside.ErrUnknownOutcome) }); i >= 0 {
			worst = failed[i] // the others were not done, which this is not sure of
		}
		c.error(fmt.Sprintf("%s (%d of %d keys)", c.describeError(worst, true), len(failed), len(values)))
		return
	}
	c.ok()
}

// setSafely is for goroutines of their own, where run cannot recover.
func (c *conn) setSafely(ctx context.Context, key, value string) (err error) {
	defer func() {
		if v := recover(); v != nil {
			c.server.panicked("MSET", v)
			err = errPanicked
		}
	}()
	return c.server.store.Set(ctx, key, proxy.Value{Data: value, TTL: proxy.NoExpiry})
}

// del counts the keys that were there just before.
func del(c *conn, args []string) {
	if !c.fits(args...) {
		return
	}
	n, err := c.countHeld(args)
	if err == nil {
		err = c.server.store.Del(c.ctx, slices.Clone(args)...) // see values
	}
	if err != nil {
		c.failWrite(err)
		return
	}
	c.int(n)
}

// countHeld counts the keys that are there, once each; while Redis is away, those for which that is
// known.
func (c *conn) countHeld(keys []string) (int64, error) {
	values, err := c.values(keys)
	if err == nil {
		return int64(len(values)), nil
	}
	if !errors.Is(err, proxy.ErrDegraded) {
		return 0, err
	}
	counted := make(map[string]bool, len(keys))
	var n int64
	for _, key := range keys {
		if counted[key] {
			continue
		}
		counted[key] = true
		switch _, err := c.server.store.Get(c.ctx, key); {
		case err == nil, isWrongType(err):
			n++
		case errors.Is(err, aside.ErrNotFound):
		case errors.Is(err, proxy.ErrDegraded): // a hash, say
			s := newStage(c.server.options.MaxValueBytes)
			if err := c.learnKept(s, key); err != nil {
				return 0, err
			}
			if s.entry(key).exists {
				n++
			}
		default:
			return 0, err
		}
	}
	return n, nil
}

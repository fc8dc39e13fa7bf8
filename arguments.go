package aside

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// CallOption changes one call.
type CallOption interface{ changeCall(o *callOptions) }

// Option is for a call or for a view. Given to a view ([Typed]), it is what the calls of the view
// do by default; a call's own options replace it. Where a value is wrong, the call returns
// ErrInvalidArgument; where it was given to a view, all calls of the view do.
type Option func(*callOptions)

func (set Option) changeCall(o *callOptions) {
	if set != nil {
		set(o)
	}
}

// callOption is an option that is of no use for a view.
type callOption func(*callOptions)

func (set callOption) changeCall(o *callOptions) { set(o) }

type callOptions struct {
	loadTimeout time.Duration
	negativeTTL time.Duration
	errorTTL    time.Duration
	jitter      float64
	grace       time.Duration
	softTimeout time.Duration
	withoutLoad bool
	places      *places // of the view's WithMaxLoads; nil: no such bound
}

// WithLoadTimeout replaces Options.LoadTimeout for the loads that are started. If a load of the key
// is running already, the call waits for that one, with its timeout.
func WithLoadTimeout(d time.Duration) Option {
	return func(o *callOptions) { o.loadTimeout = d }
}

// WithNegativeTTL replaces Options.NegativeTTL for the loads that are started; -1 does not cache an
// absence.
func WithNegativeTTL(d time.Duration) Option {
	return func(o *callOptions) { o.negativeTTL = d }
}

// WithErrorTTL replaces Options.ErrorTTL for the loads that are started; -1 does not cache an
// error.
func WithErrorTTL(d time.Duration) Option {
	return func(o *callOptions) { o.errorTTL = d }
}

// WithJitter shortens the ttl of each loaded value, or absence, by a random part of it: by fraction
// at most, which may be from 0 (the default) to 0.9. So keys that are loaded together do not expire
// together. The ttl of a Set is never changed. 0.1 is a good start.
func WithJitter(fraction float64) Option {
	return func(o *callOptions) { o.jitter = fraction }
}

// mostJitter is the most of a ttl that WithJitter may take.
const mostJitter = 0.9

// WithGrace has values kept for d beyond their ttl, and served stale in that time while one process
// refreshes them in the background: nobody waits for the loader at the end of a ttl, nor gets its
// error. A failing loader is asked again after a back-off of half a second to a second, then twice as
// long each time, up to 30 seconds, by the whole fleet once. A value that a refresh replaces must be
// the one that it set out to replace: a Set or Del meanwhile wins. Defaults to 0: no grace.
//
// A value lives in Redis for ttl + d; whoever reads it with a grace of d takes it for stale when only
// d is left. So give all views of a key the same grace, and give it to a view rather than to calls:
// the view's Set and Touch keep it, too. A reader without grace takes the value for fresh as long as
// it is there, and one with a longer grace takes it for stale earlier. A value whose ttl was never
// longer than the grace (redis-cli wrote it) is stale at once, so that it is served and refreshed.
// What does not expire is fresh, so ttl and d together must be at most [LongestTTL]. A cached absence
// has a grace, too.
//
// A refresh runs for nobody: its loader's context has a deadline, and no values. Whatever the result
// depends on must be part of the key, see [Loader].
func WithGrace(d time.Duration) Option {
	return func(o *callOptions) { o.grace = d }
}

// WithSoftTimeout has a caller that finds a stale value wait for up to d for its refresh, if this
// process runs it, and only then take the stale value; the refresh goes on. Defaults to 0: stale
// values are returned at once. It is of use with WithGrace only.
func WithSoftTimeout(d time.Duration) Option {
	return func(o *callOptions) { o.softTimeout = d }
}

// WithoutLoad makes a call answer from memory, from Redis or, while Redis is away, from the
// fallback store, and never call the loader. A Get of a key that none of them has, or that is just
// being loaded, returns [ErrNotCached]; a GetMulti leaves such keys out. Other errors are those of
// [Client.Peek].
func WithoutLoad() CallOption {
	return callOption(func(o *callOptions) { o.withoutLoad = true })
}

// callOptions are what opts change of defaults; nil: of those of the client.
func (c *Client) callOptions(defaults *callOptions, opts []CallOption) (callOptions, error) {
	if len(opts) == 0 { // else they would be on the heap for nothing
		if defaults != nil {
			return *defaults, nil
		}
		return callOptions{loadTimeout: c.opt.LoadTimeout, negativeTTL: c.opt.NegativeTTL, errorTTL: c.opt.ErrorTTL}, nil
	}
	from, err := c.callOptions(defaults, nil)
	if err != nil {
		return from, err
	}
	return from.changed(opts)
}

func (co callOptions) changed(opts []CallOption) (callOptions, error) {
	for _, set := range opts {
		if set != nil {
			set.changeCall(&co)
		}
	}
	err := tooShort("WithLoadTimeout", co.loadTimeout, "must be positive")
	if co.negativeTTL != -1 {
		err = cmp.Or(err, tooShort("WithNegativeTTL", co.negativeTTL, "must be positive, or -1 to remember no absence"))
	}
	if co.errorTTL != -1 {
		err = cmp.Or(err, tooShort("WithErrorTTL", co.errorTTL, "must be positive, or -1 to remember no error"))
	}
	if !(co.jitter >= 0 && co.jitter <= mostJitter) && err == nil { // nor may it be no number
		err = fmt.Errorf("%w: WithJitter is %v: must be from 0 to %v, the part of the ttl that is taken at most", ErrInvalidArgument, co.jitter, mostJitter)
	}
	for _, o := range []struct {
		name string
		d    time.Duration
	}{{"WithGrace", co.grace}, {"WithSoftTimeout", co.softTimeout}} {
		switch {
		case o.d == 0:
		case o.d > LongestTTL:
			err = cmp.Or(err, fmt.Errorf("%w: %s is %v: must be at most %v", ErrInvalidArgument, o.name, o.d, LongestTTL))
		default:
			err = cmp.Or(err, tooShort(o.name, o.d, "must be positive, or 0 for none"))
		}
	}
	return co, err
}

func (c *Client) check(ttl time.Duration, defaults *callOptions, opts []CallOption) (callOptions, error) {
	if err := tooShort("ttl", ttl, "must be positive; what is to live very long may have a ttl of years"); err != nil {
		return callOptions{}, err
	}
	options, err := c.callOptions(defaults, opts)
	if err == nil {
		err = endlessGrace(ttl, options.grace)
	}
	return options, err
}

// endlessGrace refuses a ttl with which the grace would have no end: Redis would keep the value for
// ever, and it would be fresh for ever.
func endlessGrace(ttl, grace time.Duration) error {
	if grace <= 0 || ttl <= LongestTTL-grace {
		return nil
	}
	return fmt.Errorf("%w: ttl is %v, with WithGrace(%v): must be at most %v together: shorten one, or leave WithGrace out for what is to live for ever", ErrInvalidArgument, ttl, grace, LongestTTL)
}

// cloned returns keys that own their bytes.
func cloned(keys []string) []string {
	own := make([]string, len(keys))
	for i, key := range keys {
		own[i] = strings.Clone(key)
	}
	return own
}

func (c *Client) checkKey(key string) error {
	if len(key) > c.opt.MaxKeyBytes {
		return fmt.Errorf("%w: key %s is longer than Options.MaxKeyBytes (%d): shorten or hash it, or raise the limit", ErrTooLarge, quoted(key), c.opt.MaxKeyBytes)
	}
	return nil
}

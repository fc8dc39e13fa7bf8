package aside

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redaside/aside/internal/freshness"
	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/wire"
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
	need        freshness.Need // of what is there already; its Grace is grace
	softTimeout time.Duration
	withoutLoad bool
	invalid     error       // the first option that was wrong by itself
	tags        []string    // of what is loaded, in ascending order, each once
	clears      *near.Group // of a Clearable view; nil: it is none
	prefix      string      // of the view's keys
	view        string      // its name, for the Observer
	version     int64       // of its type; 0: none
	places      *places     // of the view's WithMaxLoads; nil: no such bound
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

// WithMaxStale bounds how long a value may have been stale that a call gets: with 0 it gets nothing
// stale, with d what has been stale for d at most. Beyond that it waits until the value is refreshed,
// and gets what was loaded, or the loader's error; other callers get the stale value meanwhile. It
// does not wait for the back-off of a loader that fails, but gets the same error for WithErrorTTL.
// Defaults to no bound. It is of use only where the call or its view states the grace of the key, or
// the value does.
func WithMaxStale(d time.Duration) Option {
	return func(o *callOptions) { o.need.MaxStale, o.need.Bounded = d, true }
}

// WithMaxAge has a call take nothing that is older than d, which counts from when its load began, or
// it was set. What is older, or of an age that nobody knows, is loaded again, and replaced: the call
// waits for that, others get the old value meanwhile. What the call's own load returns it takes.
// Defaults to 0: any age.
//
// Redis does not say how old a value is. What a call or view with WithMaxAge loads or sets has a header
// that does, which other programs do not know (docs/adr/0015-what-a-call-needs.md); what this process
// has loaded, and still has in memory, has an age, too, and so has what it has set, with
// Options.ReadBack. So give WithMaxAge to the view, or to all calls of a key: else each of its calls
// loads again what the others have stored. Ages are told by the server's clock, and where clocks differ
// a value counts as older.
func WithMaxAge(d time.Duration) Option {
	return func(o *callOptions) { o.need.MaxAge = d }
}

// WithFresh has a call ask Redis, whatever memory holds, and share no answer with a call that has asked
// before it: it sees every write that Redis had acknowledged to anybody before the call began. That
// holds for the primary that answers; see docs/GUARANTEES.md. What it reads is in memory then, as ever.
// It costs a round trip, and another where the value has tags, or is of a Clearable view, whose keys
// are on other shards of a cluster. While Redis does not answer, the call returns ErrRedisAway: neither
// memory nor disk nor a loader can prove as much.
//
// A value that Redis holds may be stale (WithGrace); WithMaxStale(0) excludes that.
func WithFresh() Option {
	return func(o *callOptions) { o.need.Proven = true }
}

// WithRefreshAhead has values refreshed before they are stale, or, without a grace, before they end:
// so callers of a key that is in use neither wait for its loader nor get a stale value. The refresh
// runs in the background, one in the whole fleet, as with WithGrace; a failed one is followed by a
// back-off. When it begins is drawn anew for each call: the longer the load of the value has taken, and
// the more callers a key has, the earlier, but at most by fraction of its ttl, which may be from 0 (the
// default) to 0.9; 0.1 is a good start. This is XFetch (Vattani, Chierichetti, Lowenstein, "Optimal
// Probabilistic Cache Stampede Prevention", VLDB 2015). A key that nobody asks for in that time is not
// refreshed. Add WithGrace where a load may take longer than what is left then: without it, a value
// that has ended is loaded anew beside its refresh.
//
// Values that are loaded with it have a header that says what their load took, see WithMaxAge. Others
// are taken to have taken a quarter of that fraction, of the ttl of the call.
func WithRefreshAhead(fraction float64) Option {
	return func(o *callOptions) { o.need.Ahead = fraction }
}

// mostAhead is the most of a ttl by which WithRefreshAhead may refresh a value early.
const mostAhead = 0.9

// WithTags gives tags to what the call, or the view, loads or sets: [Client.DelTags] and
// [Client.ExpireTags] reach all values with a tag at once, whatever their keys. A loader gives tags
// that depend on the value by Load.SetTags. Given to a call, the tags replace those of its view; no
// tags are none. A value has 100 tags at most, those of its loader included, each of 1 to 512 bytes.
//
// A value with tags has a header in Redis (docs/adr/0012), which other programs do not know. Each tag
// has two small keys there, which live for 30 days after their last use. A tag whose key is gone
// counts as cleared.
func WithTags(tags ...string) Option {
	own, err := ownTags("WithTags", tags)
	return func(o *callOptions) {
		o.tags = own
		if err != nil {
			o.invalid = err
		}
	}
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

// viewName is the name of the view whose calls have these options; "" for nil.
func (co *callOptions) viewName() string {
	if co == nil {
		return ""
	}
	return co.view
}

// callOptions are what opts change of defaults; nil: of those of the client. Nobody may change what it
// returns, which without opts are the defaults themselves.
func (c *Client) callOptions(defaults *callOptions, opts []CallOption) (*callOptions, error) {
	if defaults == nil {
		defaults = c.defaults
	}
	if len(opts) == 0 {
		return defaults, nil
	}
	changed := *defaults
	err := changed.change(opts)
	return &changed, err
}

// newCallOptions are those of a client with these options.
func newCallOptions(o *Options) *callOptions {
	return &callOptions{loadTimeout: o.LoadTimeout, negativeTTL: o.NegativeTTL, errorTTL: o.ErrorTTL}
}

// with returns a copy of co with another grace, for a write.
func (co *callOptions) with(grace time.Duration) *callOptions {
	changed := *co
	changed.grace = grace
	return &changed
}

func (co *callOptions) change(opts []CallOption) error {
	for _, set := range opts {
		if set != nil {
			set.changeCall(co)
		}
	}
	err := cmp.Or(co.invalid, tooShort("WithLoadTimeout", co.loadTimeout, "must be positive"))
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
	}{{"WithGrace", co.grace}, {"WithSoftTimeout", co.softTimeout}, {"WithMaxAge", co.need.MaxAge}} {
		switch {
		case o.d == 0:
		case o.d > LongestTTL:
			err = cmp.Or(err, fmt.Errorf("%w: %s is %v: must be at most %v", ErrInvalidArgument, o.name, o.d, LongestTTL))
		default:
			err = cmp.Or(err, tooShort(o.name, o.d, "must be positive, or 0 for none"))
		}
	}
	if !(co.need.Ahead >= 0 && co.need.Ahead <= mostAhead) { // nor may it be no number
		err = cmp.Or(err, fmt.Errorf("%w: WithRefreshAhead is %v: must be from 0 to %v, the part of the ttl by which a value is refreshed early at most", ErrInvalidArgument, co.need.Ahead, mostAhead))
	}
	if co.need.MaxStale < 0 {
		err = cmp.Or(err, fmt.Errorf("%w: WithMaxStale is %v: must be positive, or 0 for nothing stale; leave the option out for no bound", ErrInvalidArgument, co.need.MaxStale))
	}
	co.need.Grace = co.grace
	return err
}

func (c *Client) check(ttl time.Duration, defaults *callOptions, opts []CallOption) (*callOptions, error) {
	if err := tooShort("ttl", ttl, "must be positive; what is to live very long may have a ttl of years"); err != nil {
		return c.defaults, err
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

// ownTags returns tags in ascending order, each once.
func ownTags(by string, tags []string) ([]string, error) {
	own := cloned(tags)
	slices.Sort(own)
	own = slices.Compact(own)
	if len(own) > wire.MostTags {
		return nil, fmt.Errorf("%w: %s has %d tags: must be at most %d", ErrInvalidArgument, by, len(own), wire.MostTags)
	}
	for _, tag := range own {
		if err := checkTag(by, tag); err != nil {
			return nil, err
		}
	}
	return own, nil
}

// tooManyTags refuses a value that would have more tags than a header has room for: those of WithTags
// and those of its loader together.
func tooManyTags(of, said []string) error {
	all := slices.Concat(of, said)
	slices.Sort(all)
	if n := len(slices.Compact(all)); n > wire.MostTags {
		return fmt.Errorf("%w: Load.SetTags and WithTags give a value %d tags together: must be at most %d", ErrInvalidArgument, n, wire.MostTags)
	}
	return nil
}

func checkTag(by, tag string) error {
	switch {
	case tag == "":
		return fmt.Errorf("%w: %s has an empty tag: a tag must have 1 to %d bytes", ErrInvalidArgument, by, wire.LongestTag)
	case len(tag) > wire.LongestTag:
		return fmt.Errorf("%w: %s has the tag %s of %d bytes: must be at most %d: shorten or hash it", ErrInvalidArgument, by, quoted(tag), len(tag), wire.LongestTag)
	}
	return nil
}

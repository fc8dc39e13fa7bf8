package aside

import (
	"context"
	"errors"
	"slices"

	"github.com/redaside/aside/internal/freshness"
	"github.com/redaside/aside/internal/near"
)

// A call with WithoutLoad has what can be had without the loader, as Peek does.

// obtainKept is obtain for such a call. bad is as there: what the key holds cannot be decoded.
func (c reader) obtainKept(ctx context.Context, key, bad string, p *plan) (outcome, error) {
	if bad != "" {
		return outcome{}, ErrNotCached
	}
	look := c.look
	if p.options.need.Proven {
		look = c.lookPast
	}
	found, e, ok, err := look(ctx, key, "get", p.options.view)
	switch {
	case p.options.need.Proven && (errors.Is(err, ErrRedisAway) || err == nil && found.away):
		return outcome{}, errNoBarrier
	case err != nil:
		return outcome{}, err
	case !ok && found.At.IsZero():
		return outcome{}, ErrNotCached
	}
	out := c.found(found, e, ok)
	if p.options.need.Proven {
		v, proven := grouper(c).proven(ctx, out.meta, found.by)
		switch {
		case !proven:
			return outcome{}, unproven(errGroupsUnproven)
		case v == near.GroupsCleared:
			return outcome{}, ErrNotCached
		}
		out.expired = v == near.GroupsExpired
	}
	if c.unfit(&out, p) {
		return outcome{}, ErrNotCached
	}
	return out, nil
}

// unfit reports whether what was found will not do for the caller of p.
func (c reader) unfit(out *outcome, p *plan) bool {
	if g := p.options.clears; g != nil && !out.meta.Of(g) {
		return true // it is older than any clearing
	}
	if out.gone(p.options.grace) {
		return true
	}
	return refresher(c).judge(&ticket{}, out, p) == freshness.Unfit
}

// kept is a call for many keys that loads nothing.
type kept struct {
	bad    map[string]string // as in obtainMulti
	p      *plan
	failed map[string]error
}

// obtainKeptMulti is obtainMulti for such a call.
func (c reader) obtainKeptMulti(ctx context.Context, keys []string, k kept, use func(key string, out *outcome)) {
	keys = slices.DeleteFunc(keys, func(key string) bool { return k.bad[key] != "" })
	if k.p.options.need.Proven { // one by one: who asks for proofs without loading asks seldom
		for _, key := range keys {
			switch out, err := c.obtainKept(ctx, key, "", k.p); {
			case err == nil && !out.absent:
				use(key, &out)
			case err != nil && !errors.Is(err, ErrNotCached):
				k.failed[key] = err
			}
		}
		return
	}
	found, err := c.lookAll(ctx, keys)
	if err != nil {
		for _, key := range keys {
			k.failed[key] = err
		}
		return
	}
	for key := range found {
		if out := c.found(found[key], nil, true); !c.unfit(&out, k.p) {
			use(key, &out)
		}
	}
}

// found is the outcome of a call that has looked.
func (c reader) found(found Found, e *near.Entry, ok bool) outcome {
	out := outcome{raw: found.Value, absent: !ok, entry: e, at: int64(found.At.Sub(c.link.Began())), began: found.began, meta: found.meta, source: found.Source, bare: found.away, expired: found.expired}
	if found.TTL >= 0 {
		out.ends = c.link.Now() + int64(found.TTL)
	}
	return out
}

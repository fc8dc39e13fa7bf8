package web

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// Freshness. A value that was put with a ttl lives for a grace longer (Options.Grace): it is stale
// then, and only a request that says so gets it, so that an application has something when its own
// source fails. Nobody is behind a proxy to load it anew.

const longestAge = 1<<31 - 1 // RFC 9111, 1.2.2: what is more counts as this

// demand is what a request asks of a value by Cache-Control.
type demand struct {
	maxAge time.Duration // so long ago at most Redis was asked; negative: no matter
	stale  time.Duration // what is stale for so long is served, too; negative: nothing
	only   bool          // 504, not 404, where there is nothing
}

// demandOf reads Cache-Control. Directives that say nothing to this proxy are ignored, as RFC 9111
// wants it.
func demandOf(lists []string) (demand, error) {
	d := demand{maxAge: -1, stale: -1}
	for _, list := range lists {
		for _, directive := range directives(list) {
			name, text, hasValue := strings.Cut(strings.TrimSpace(directive), "=")
			name = strings.ToLower(strings.TrimSpace(name))
			seconds := func() (time.Duration, error) {
				n, err := strconv.ParseUint(strings.Trim(strings.TrimSpace(text), `"`), 10, 64)
				if err != nil && !errors.Is(err, strconv.ErrRange) {
					return 0, fmt.Errorf("Cache-Control: %s is %q: give a number of seconds, as in %s=60", name, shortened(text), name)
				}
				return time.Duration(min(n, longestAge)) * time.Second, nil
			}
			var err error
			switch name {
			case "no-cache":
				d.maxAge = 0
			case "max-age":
				var most time.Duration
				if most, err = seconds(); d.maxAge < 0 || most < d.maxAge {
					d.maxAge = most
				}
			case "only-if-cached":
				d.only = true
			case "max-stale", "stale-if-error":
				most := longestAge * time.Second // max-stale without a number
				if hasValue || name == "stale-if-error" {
					most, err = seconds()
				}
				d.stale = max(d.stale, most)
			}
			if err != nil {
				return d, err
			}
		}
	}
	return d, nil
}

// directives divides a header's list at the commas that no quoted string has within it (RFC 9110, section 5.6).
func directives(list string) (all []string) {
	quoted, escaped, from := false, false, 0
	for i := range len(list) {
		switch b := list[i]; {
		case escaped:
			escaped = false
		case b == '\\' && quoted:
			escaped = true
		case b == '"':
			quoted = !quoted
		case b == ',' && !quoted:
			all, from = append(all, list[from:i]), i+1
		}
	}
	return append(all, list[from:])
}

var errStale = fmt.Errorf("%w: it is stale, and the request does not take what is", aside.ErrNotFound)

// getFor is Store.Get for a request that asks something of the value.
func (x *exchange) getFor(ctx context.Context, key string) (proxy.Value, error) {
	d := demand{maxAge: -1, stale: -1}
	if lists := x.r.Header["Cache-Control"]; len(lists) > 0 {
		var err error
		if d, err = demandOf(lists); err != nil {
			return proxy.Value{}, &badDemand{err}
		}
	}
	v, err := x.store.Get(ctx, key)
	if err == nil && d.maxAge >= 0 && time.Since(v.At) > d.maxAge && v.Source != aside.SourceRedis {
		fresh, failed := x.store.GetFromRedis(ctx, key)
		if failed == nil || d.stale < 0 || !errors.Is(failed, proxy.ErrDegraded) {
			v, err = fresh, failed
		}
	}
	if err == nil {
		v, err = x.serves(v, d.stale)
	}
	if d.only && errors.Is(err, aside.ErrNotFound) {
		err = fmt.Errorf("%w: %w", errOnlyCached, err)
	}
	return v, err
}

// serves takes the grace off what is left of a value, and reports by errStale that only grace is.
func (x *exchange) serves(v proxy.Value, takes time.Duration) (proxy.Value, error) {
	if x.o.Grace <= 0 || v.TTL == proxy.NoExpiry {
		return v, nil
	}
	v.TTL -= x.o.Grace
	v.Stale = v.TTL <= 0
	if v.Stale && takes < -v.TTL {
		return v, errStale
	}
	return v, nil
}

// withGrace is for how long a value that is put for ttl lives.
func (x *exchange) withGrace(ttl time.Duration) time.Duration {
	if ttl == proxy.NoExpiry {
		return ttl
	}
	return min(ttl+x.o.Grace, proxy.LongestTTL)
}

// badDemand is what is wrong with a Cache-Control.
type badDemand struct{ error }

// errOnlyCached is what a request gets that asked for what is cached only.
var errOnlyCached = errors.New("only-if-cached")

// missStatus is the Cache-Status of an error that means that there is nothing.
func missStatus(err error) string {
	if errors.Is(err, errStale) {
		return staleStatus
	}
	return noCacheStatus
}

const staleStatus = "aside; fwd=stale"

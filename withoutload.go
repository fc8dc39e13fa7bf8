package aside

import (
	"context"
	"slices"
)

// A call with WithoutLoad has what can be had without the loader, as Peek does.

// obtainKept is obtain for such a call. bad is as there: what the key holds cannot be decoded.
func (c *Client) obtainKept(ctx context.Context, key, bad string) (outcome, error) {
	if bad != "" {
		return outcome{}, ErrNotCached
	}
	found, e, ok, err := c.look(ctx, key)
	switch {
	case err != nil:
		return outcome{}, err
	case !ok && found.At.IsZero():
		return outcome{}, ErrNotCached
	}
	return outcome{raw: found.Value, absent: !ok, entry: e}, nil
}

// obtainKeptMulti is obtainMulti for such a call.
func (c *Client) obtainKeptMulti(ctx context.Context, keys []string, bad map[string]string, failed map[string]error, use func(key string, out outcome)) {
	keys = slices.DeleteFunc(keys, func(key string) bool { return bad[key] != "" })
	found, err := c.LookMulti(ctx, keys)
	if err != nil {
		for _, key := range keys {
			failed[key] = err
		}
		return
	}
	for key := range found {
		use(key, outcome{raw: found[key].Value})
	}
}

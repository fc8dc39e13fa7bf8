package aside

import (
	"cmp"
	"fmt"
	"time"
)

// CallOption changes one call.
type CallOption func(*callOptions)

type callOptions struct {
	loadTimeout time.Duration
	negativeTTL time.Duration
	errorTTL    time.Duration
}

// WithLoadTimeout replaces Options.LoadTimeout for the load that this call starts. If a load of the
// key is running already, the call waits for that one, with its timeout.
func WithLoadTimeout(d time.Duration) CallOption {
	return func(o *callOptions) { o.loadTimeout = d }
}

// WithNegativeTTL replaces Options.NegativeTTL for the load that this call starts; -1 does not
// cache an absence.
func WithNegativeTTL(d time.Duration) CallOption {
	return func(o *callOptions) { o.negativeTTL = d }
}

// WithErrorTTL replaces Options.ErrorTTL for the load that this call starts; -1 does not cache an
// error.
func WithErrorTTL(d time.Duration) CallOption {
	return func(o *callOptions) { o.errorTTL = d }
}

func (c *Client) callOptions(opts []CallOption) (callOptions, error) {
	defaults := callOptions{loadTimeout: c.opt.LoadTimeout, negativeTTL: c.opt.NegativeTTL, errorTTL: c.opt.ErrorTTL}
	if len(opts) == 0 { // else they would be on the heap for nothing
		return defaults, nil
	}
	return defaults.changed(opts)
}

func (co callOptions) changed(opts []CallOption) (callOptions, error) {
	for _, set := range opts {
		if set != nil {
			set(&co)
		}
	}
	err := tooShort("WithLoadTimeout", co.loadTimeout, "must be positive")
	if co.negativeTTL != -1 {
		err = cmp.Or(err, tooShort("WithNegativeTTL", co.negativeTTL, "must be positive, or -1 to remember no absence"))
	}
	if co.errorTTL != -1 {
		err = cmp.Or(err, tooShort("WithErrorTTL", co.errorTTL, "must be positive, or -1 to remember no error"))
	}
	return co, err
}

func (c *Client) check(ttl time.Duration, opts []CallOption) (callOptions, error) {
	if err := tooShort("ttl", ttl, "must be positive; what is to live very long may have a ttl of years"); err != nil {
		return callOptions{}, err
	}
	return c.callOptions(opts)
}

func (c *Client) checkKey(key string) error {
	if len(key) > c.opt.MaxKeyBytes {
		return fmt.Errorf("%w: key %s is longer than Options.MaxKeyBytes (%d): shorten or hash it, or raise the limit", ErrTooLarge, quoted(key), c.opt.MaxKeyBytes)
	}
	return nil
}

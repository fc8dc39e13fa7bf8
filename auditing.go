package aside

import (
	"fmt"
	"reflect"

	"github.com/redaside/aside/internal/audit"
)

// Audit says how the hits of a view are audited: see [WithAudit].
type Audit[T any] struct {
	// Fraction is the share of the view's hits in memory that are audited, if there is room: above
	// 0, up to 1. It has no default.
	Fraction float64

	// AtOnce is how many audits may run at a time, and PerSecond how many may begin in a second. Hits
	// beyond that are skipped. Default to 1 and 10.
	AtOnce    int
	PerSecond float64

	// Equal reports whether a cached and a loaded value are the same. Set it where equal values may
	// have different encodings (maps with most codecs but JSON), or where some fields do not matter. It
	// must be safe for concurrent use. Defaults to a comparison of the encoded bytes.
	Equal func(cached, loaded T) bool

	// StaleShare is the share of hits that may be stale, for AuditReport.SuggestedTTL. Defaults to
	// 0.01.
	StaleShare float64
}

// audits are those of a view. Safe for concurrent use.
type audits[T any] struct {
	*audit.Auditor
	equal func(cached, loaded T) bool // nil: the bytes are compared
	name  string
	rare  seldom
}

// newAudits returns what WithAudit has asked for in a view of that name; nil: nothing.
func newAudits[T any](c *Client, view string, asked any) (*audits[T], error) {
	if asked == nil || c == nil {
		return nil, nil
	}
	a, ok := asked.(Audit[T])
	if !ok {
		kind := reflect.TypeFor[T]()
		return nil, fmt.Errorf("%w: WithAudit was given a %T, and the view is of %v: pass an Audit[%v]", ErrInvalidArgument, asked, kind, kind)
	}
	o := audit.Options{Fraction: a.Fraction, AtOnce: int64(a.AtOnce), PerSecond: a.PerSecond, Target: a.StaleShare, Longest: LongestTTL, Now: c.link.Now}
	return &audits[T]{Auditor: audit.New(o), equal: a.Equal, name: view}, nil
}

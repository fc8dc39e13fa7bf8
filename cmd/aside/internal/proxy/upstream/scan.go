package upstream

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// SCAN before a Redis Cluster asks its primaries one after the other, in the order of their ids. The cursor that a
// client gets says how far that is, so nothing is remembered here, and another proxy before the same cluster goes on:
//
//	bits  53–63         52  26–51          16–25    0–15
//	     +-------------+---+--------------+--------+--------+
//	     | high bits   | 0 | low 26 bits  | which  | layout |
//	     +-------------+---+--------------+--------+--------+
//	        the primary's own cursor        primary
//
// layout is a hash of which primary has which slot. If that changes before the end, keys may have come to a primary
// that was asked already, so going on is an error. A primary is asked for its own view of it behind its last page: a slot
// whose keys would be missed has left a primary that was yet to be asked, or is leaving it, and that one knows it.
//
// Clients that read numbers as JavaScript does round what is not below 2^53, and lose bits of the layout first: an error,
// too, and not a scan that misses keys. Bit 52 is for the cursors of an outage (package resp).
const (
	layoutBits  = 16
	primaryBits = 10
	lowBits     = 26 // of a primary's own cursor: those below bit 52
	lowAt       = layoutBits + primaryBits
	highAt      = 53
	highBits    = 64 - highAt
)

var (
	// ErrLayout means that the slots have moved, or a replica took over, since a list of keys was begun.
	ErrLayout = errors.New("upstream: which primary has which slot has changed since the keys' list was begun")

	// ErrUncovered means that some slots have no primary, so that nobody knows their keys.
	ErrUncovered = errors.New("upstream: some slots of the cluster have no primary")

	// ErrCursor means that a primary's own cursor has no room beside the rest, or that there are too many primaries.
	ErrCursor = errors.New("upstream: a cursor has no room for that of the cluster's node")

	// ErrNoRoom means that a reply is larger than what may be held now.
	ErrNoRoom = errors.New("upstream: a reply is larger than what may be held now")
)

// spread is who has which slot, for lists of keys. Immutable.
type spread struct {
	order   []*node // primaries, by id
	ids     []string
	covered bool   // all slots have one
	layout  uint16 // hash of it all
}

// newSpread is the spread of slots whose primaries have these ids.
func newSpread(s *slots, ids map[*node]string) (d spread) {
	d.order = slices.Clone(s.primaries)
	slices.SortFunc(d.order, func(a, b *node) int { return strings.Compare(ids[a], ids[b]) })
	for _, n := range d.order {
		d.ids = append(d.ids, ids[n])
	}
	d.covered = true
	h := fnv.New64a()
	for i, n := range s.primary {
		d.covered = d.covered && n != nil
		if i == 0 || n != s.primary[i-1] {
			_, _ = h.Write([]byte(strconv.Itoa(i) + " " + ids[n] + "\n"))
		}
	}
	sum := h.Sum64()
	d.layout = uint16(sum ^ sum>>16 ^ sum>>32 ^ sum>>48)
	return d
}

func joinCursor(own uint64, primary int, layout uint16) uint64 {
	return own>>lowBits<<highAt | own&(1<<lowBits-1)<<lowAt | uint64(primary)<<layoutBits | uint64(layout)
}

func splitCursor(cursor uint64) (own uint64, primary int, layout uint16) {
	own = cursor>>highAt<<lowBits | cursor>>lowAt&(1<<lowBits-1)
	return own, int(cursor >> layoutBits & (1<<primaryBits - 1)), uint16(cursor)
}

// Scan returns some keys of the cluster, the library's own as well, and the cursor that goes on; 0: there are no more. It
// asks one primary, with options as they stand behind SCAN's cursor. A key that stays where it is until the end is
// returned once or more. b is used to ask, and holds its replies in its Share; it is the caller's to Reset.
//
// Errors are ErrNotSent, ErrLost, ErrLayout, ErrUncovered, ErrCursor, ErrNoRoom, and a ServerError of the primary's.
func (p *Pool) Scan(ctx context.Context, b *Batch, cursor uint64, options []string, alive func() bool) (next uint64, keys []string, err error) {
	own, i, layout := splitCursor(cursor)
	s, err := p.spreadFor(ctx, cursor)
	if err != nil {
		return 0, nil, err
	}
	if cursor != 0 && (s.spread.layout != layout || i >= len(s.spread.order) || joinCursor(own, i, layout) != cursor) {
		return 0, nil, ErrLayout
	}
	n := s.spread.order[i]
	replies, err := p.askNode(ctx, n, b, alive, append([]string{"SCAN", strconv.FormatUint(own, 10)}, options...))
	if err != nil {
		return 0, nil, p.because(ctx, s, err)
	}
	if own, keys, err = pageOf(replies[0]); err != nil {
		return 0, nil, err
	}
	if own == 0 {
		if err := p.confirm(ctx, s, i, b, alive); err != nil {
			return 0, nil, err
		}
	}
	next, err = s.spread.behind(own, i)
	return next, keys, err
}

// behind is the cursor behind a page of the i-th primary, which has returned this one of its own.
func (d *spread) behind(own uint64, i int) (uint64, error) {
	switch {
	case own >= 1<<(lowBits+highBits):
		return 0, ErrCursor
	case own > 0:
		return joinCursor(own, i, d.layout), nil
	case i+1 < len(d.order):
		return joinCursor(0, i+1, d.layout), nil
	}
	return 0, nil
}

// spreadFor is the spread for a cursor: for 0 asked for anew, as it is for one of another layout than that which is known.
func (p *Pool) spreadFor(ctx context.Context, cursor uint64) (s *slots, err error) {
	if cursor != 0 {
		s, err = p.slots(ctx)
	}
	if _, _, layout := splitCursor(cursor); cursor == 0 || err == nil && s.spread.layout != layout {
		s, err = p.refresh(ctx)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	case !s.spread.covered:
		return nil, ErrUncovered
	case len(s.spread.order) > 1<<primaryBits:
		return nil, ErrCursor
	}
	return s, nil
}

// confirm returns ErrLayout if the i-th primary, which has been asked for all its keys, has another view of the slots than s, or if
// a slot of it is on its way to one that was asked before.
func (p *Pool) confirm(ctx context.Context, s *slots, i int, b *Batch, alive func() bool) error {
	n := s.spread.order[i]
	// In this order: a move that ends between the two is seen by the second.
	replies, err := p.askNode(ctx, n, b, alive, []string{"CLUSTER", "NODES"}, []string{"CLUSTER", "SLOTS"})
	if err != nil {
		return p.because(ctx, s, err)
	}
	nodes, _, err := decode(replies[0])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	now, err := p.newSlots(replies[1], n.address)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	text, _ := nodes.(string)
	switch {
	case now.spread.layout == s.spread.layout && now.spread.order[i] == n && !s.spread.loses(text, i):
		return nil
	case now.spread.layout == s.spread.layout:
		return ErrLayout
	}
	old := *s // whoever begins anew asks for it anew
	old.at = old.at.Add(-refreshEvery)
	p.cluster.known.CompareAndSwap(s, &old)
	return ErrLayout
}

// loses reports whether a slot of the i-th primary, whose CLUSTER NODES this is, is on its way to one that is asked before it, or not at
// all. Redis marks such a slot in the line of the node itself: [42->-id].
func (d *spread) loses(nodes string, i int) bool {
	for line := range strings.Lines(nodes) {
		fields := strings.Fields(line)
		if len(fields) < 8 || !slices.Contains(strings.Split(fields[2], ","), "myself") {
			continue
		}
		for _, field := range fields[8:] {
			if _, to, moves := strings.Cut(strings.Trim(field, "[]"), "->-"); moves && slices.Index(d.ids, to) < i {
				return true
			}
		}
	}
	return false
}

// because is ErrLayout if err is an answer that is missing, and the slots are no longer as s has them: who asks again gets no
// other.
func (p *Pool) because(ctx context.Context, s *slots, err error) error {
	if errors.Is(err, ErrNotSent) || errors.Is(err, ErrLost) {
		if now, failed := p.refresh(ctx); failed == nil && now.spread.layout != s.spread.layout {
			return ErrLayout
		}
	}
	return err
}

// askNode sends a primary commands, and returns their replies, which are b's. An error reply is a ServerError.
func (p *Pool) askNode(ctx context.Context, n *node, b *Batch, alive func() bool, commands ...[]string) (replies [][]byte, err error) {
	b.Reset()
	for _, args := range commands {
		b.Add(args)
	}
	up := func() bool { return alive() && (p.options.Up == nil || p.options.Up(n.address)) }
	if err := p.doAt(ctx, n, 3, b, up); err != nil {
		return nil, err
	}
	begin := 0
	for _, end := range b.Ends {
		reply := b.Replies[begin:end]
		if err := refusedOf(reply); err != nil {
			return nil, err
		}
		replies, begin = append(replies, reply), end
	}
	return replies, nil
}

// refusedOf is the error that a reply is; nil if it is none.
func refusedOf(reply []byte) error {
	switch {
	case len(reply) == 0:
		return ErrNoRoom
	case isError(reply):
		return Refused(reply)
	}
	return nil
}

// pageOf reads a reply of SCAN.
func pageOf(reply []byte) (cursor uint64, keys []string, err error) {
	value, _, err := decode(reply)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrLost, err)
	}
	elements, _ := value.([]any)
	if len(elements) != 2 {
		return 0, nil, fmt.Errorf("%w: SCAN has answered %d elements", ErrLost, len(elements))
	}
	text, _ := elements[0].(string)
	if cursor, err = strconv.ParseUint(text, 10, 64); err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrLost, err)
	}
	return cursor, stringsOf(elements[1]), nil
}

// RandomKey returns a key of the cluster for which good reports true, each with the same chance; false if tries of them were
// others. b is used as by Scan. Errors are those of Scan.
func (p *Pool) RandomKey(ctx context.Context, b *Batch, tries int, good func(key string) bool, alive func() bool) (key string, ok bool, err error) {
	s, err := p.spreadFor(ctx, 0)
	if err != nil {
		return "", false, err
	}
	sizes, all, err := p.sizes(ctx, s.spread.order, b, alive)
	if err != nil {
		return "", false, p.because(ctx, s, err)
	}
	for ; tries > 0 && all > 0; tries-- {
		which, left := 0, rand.Int64N(all)
		for left >= sizes[which] {
			left -= sizes[which]
			which++
		}
		replies, err := p.askNode(ctx, s.spread.order[which], b, alive, []string{"RANDOMKEY"})
		if err != nil {
			return "", false, p.because(ctx, s, err)
		}
		value, _, err := decode(replies[0])
		if err != nil {
			return "", false, fmt.Errorf("%w: %w", ErrLost, err)
		}
		if key, ok := value.(string); ok && good(key) { // not of one that has become empty
			return key, true, nil
		}
	}
	return "", false, nil
}

// sizes are how many keys primaries have, and how many that is.
func (p *Pool) sizes(ctx context.Context, primaries []*node, b *Batch, alive func() bool) (sizes []int64, all int64, err error) {
	parts := make([]*part, len(primaries))
	for i, n := range primaries {
		parts[i] = &part{node: n, batch: Batch{Share: b.Share.Sibling()}}
		parts[i].batch.Add([]string{"DBSIZE"})
	}
	p.doParts(ctx, nil, 3, parts, alive)
	for _, part := range parts {
		if err == nil {
			err = part.err
		}
		if err == nil {
			err = refusedOf(part.batch.Replies)
		}
		if err == nil {
			value, _, _ := decode(part.batch.Replies)
			size, _ := value.(int64)
			sizes, all = append(sizes, size), all+size
		}
		part.batch.Share.End()
	}
	return sizes, all, err
}

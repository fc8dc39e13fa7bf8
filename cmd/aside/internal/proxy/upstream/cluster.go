package upstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redaside/aside/internal/slot"
)

// In a Redis Cluster each command goes to the primary of its slot, which CLUSTER SLOTS tells. Where
// that has changed, the node that was asked says who has the slot now:
//
//	MOVED 42 address   for good: the command is sent there, and CLUSTER SLOTS is asked again
//	ASK 42 address     this key only, while the slot moves: it is sent there, behind ASKING
//
// A batch is divided by node; the parts travel at once. Commands of one slot keep their order, as
// they go the same way. What a command of one part is answered says nothing of another's, so in a
// cluster each command may have an error of its own (Batch.Err).

const (
	mostRedirects = 5                      // of one command
	refreshEvery  = 100 * time.Millisecond // at most
)

// errRedirected is why a command was not done that each node has sent to another.
var errRedirected = errors.New("the nodes of the cluster do not agree on who has its slot")

// errNoSlots is why nobody knows who has which slot.
var errNoSlots = errors.New("no node of the cluster says who has which slot")

// cluster is what is known of a Redis Cluster. Safe for concurrent use.
type cluster struct {
	known atomic.Pointer[slots] // nil until it was asked for

	mu     sync.Mutex       // guards what follows; never held while calling out
	nodes  map[string]*node // by address; those that were ever named, as a node that has gone may come back
	asking chan struct{}    // closed when somebody has asked; nil if nobody does
	err    error            // why that failed

	tracking map[*Login]struct{} // are told when a slot has another primary; nil: nobody watches for that
}

// slots says which primary has which slot. Immutable.
type slots struct {
	primary   [slot.Count]*node // nil: nobody
	primaries []*node           // those with slots, by address
	tags      map[*node]string  // hash tags of slots of theirs
	replicas  []string          // addresses
	spread    spread
	at        time.Time
}

func (c *cluster) node(address string) *node {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[address]
	if n == nil {
		n = &node{address: address}
		c.nodes[address] = n
	}
	return n
}

func (c *cluster) all() []*node {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*node, 0, len(c.nodes)+1)
	for _, n := range c.nodes {
		all = append(all, n)
	}
	return all
}

// of is the node to ask about a slot; where nobody has it, any: it says so.
func (s *slots) of(n uint16) *node {
	if owner := s.primary[n]; owner != nil {
		return owner
	}
	return s.primaries[int(n)%len(s.primaries)]
}

// slots is what is known, or asks for it for the first time.
func (p *Pool) slots(ctx context.Context) (*slots, error) {
	if s := p.cluster.known.Load(); s != nil {
		return s, nil
	}
	return p.refresh(ctx)
}

// refresh asks who has which slot, unless that was just done, and returns the answer.
func (p *Pool) refresh(ctx context.Context) (*slots, error) {
	c := &p.cluster
	c.mu.Lock()
	if s := c.known.Load(); s != nil && time.Since(s.at) < refreshEvery {
		c.mu.Unlock()
		return s, nil
	}
	if c.asking == nil {
		if p.ctx.Err() != nil {
			c.mu.Unlock()
			return nil, errClosed
		}
		c.asking = make(chan struct{})
		p.running.Go(p.ask) // ends when it has asked all nodes, or with the pool
	}
	asking := c.asking
	c.mu.Unlock()
	select {
	case <-asking:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	return c.known.Load(), nil
}

// ask asks one node after the other until one says who has which slot.
func (p *Pool) ask() {
	c := &p.cluster
	var addresses []string
	if s := c.known.Load(); s != nil {
		for _, n := range s.primaries {
			addresses = append(addresses, n.address)
		}
		addresses = append(addresses, s.replicas...)
	}
	rand.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
	for _, address := range p.options.Nodes() {
		if !slices.Contains(addresses, address) {
			addresses = append(addresses, address)
		}
	}
	var s *slots
	err := errNoSlots
	for _, address := range addresses {
		var failed error
		if s, failed = p.askAt(address); failed == nil {
			err = nil
			break
		}
		err = fmt.Errorf("%w: %s: %w", errNoSlots, address, failed)
	}
	c.mu.Lock()
	var tracking []*Login
	if c.err = err; err == nil {
		tracking = c.trackersOfLocked(c.known.Load(), s)
		c.known.Store(s)
	}
	close(c.asking)
	c.asking = nil
	c.mu.Unlock()
	for _, l := range tracking {
		l.forget()
	}
}

func (p *Pool) askAt(address string) (*slots, error) {
	d, err := p.options.dial(p.ctx, address, 3, ownBuffer)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if err := d.SetDeadline(time.Now().Add(p.options.DialTimeout)); err != nil {
		return nil, err
	}
	reply, err := d.ask("CLUSTER", "SLOTS")
	if err != nil {
		return nil, err
	}
	return p.newSlots(reply, address)
}

// newSlots reads CLUSTER SLOTS as the node at an address has answered it: rows of the first and last
// slot, and nodes, the primary first, each of which begins with host and port.
func (p *Pool) newSlots(reply []byte, asked string) (*slots, error) {
	value, _, err := decode(reply)
	if err != nil {
		return nil, err
	}
	if refused, ok := value.(ServerError); ok {
		return nil, refused
	}
	s := &slots{at: time.Now(), tags: make(map[*node]string)}
	ids := make(map[*node]string)
	rows, _ := value.([]any)
	for _, row := range rows {
		fields, _ := row.([]any)
		if len(fields) < 3 {
			return nil, errProtocol
		}
		first, last := intOf(fields[0]), intOf(fields[1])
		address, ok := addressOf(fields[2], asked)
		if !ok || first < 0 || last >= slot.Count {
			return nil, errProtocol
		}
		n := p.cluster.node(address)
		ids[n] = idOf(fields[2], address)
		for i := first; i <= last; i++ {
			s.primary[i] = n
		}
		if !slices.Contains(s.primaries, n) {
			s.primaries = append(s.primaries, n)
		}
		for _, replica := range fields[3:] {
			if address, ok := addressOf(replica, asked); ok && !slices.Contains(s.replicas, address) {
				s.replicas = append(s.replicas, address)
			}
		}
	}
	if len(s.primaries) == 0 {
		return nil, errNoSlots
	}
	slices.SortFunc(s.primaries, func(a, b *node) int { return strings.Compare(a.address, b.address) })
	s.spread = newSpread(s, ids)
	for i := 0; i < slot.Count && len(s.tags) < len(s.primaries); i++ {
		tag := strconv.Itoa(i)
		if n := s.primary[slot.Of(tag)]; n != nil && s.tags[n] == "" {
			s.tags[n] = tag
		}
	}
	return s, nil
}

// addressOf is the address of a node in CLUSTER SLOTS. One without a host is where it was asked.
func addressOf(entry any, asked string) (string, bool) {
	fields, _ := entry.([]any)
	if len(fields) < 2 {
		return "", false
	}
	host, _ := fields[0].(string)
	port := intOf(fields[1])
	if host == "" || host == "?" {
		host, _, _ = net.SplitHostPort(asked)
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), host != "" && port > 0
}

// idOf is the id of a node in CLUSTER SLOTS: whoever is asked, and by whichever address, says the same.
func idOf(entry any, address string) string {
	if fields, _ := entry.([]any); len(fields) > 2 {
		if id, ok := fields[2].(string); ok {
			return id
		}
	}
	return address
}

// Place says where in a cluster a command belongs.
type Place struct {
	Slot   uint16
	Join   Join // not nil: to all primaries, and this makes one reply of theirs
	Writes bool // it may change something, of which Login.Wait is to know
}

// placed is where a command belongs, and where in the request it begins.
type placed struct {
	Place
	begin int
}

// AddAt appends a command for a Redis Cluster. A batch has either these or those of Add.
func (b *Batch) AddAt(args []string, at Place) {
	b.places = append(b.places, placed{at, len(b.Request)})
	b.Add(args)
}

// Err is the error of the command at i, where others of its batch were answered: Do has returned
// nil. It is ErrNotSent or ErrLost.
func (b *Batch) Err(i int) error {
	if b.errs == nil {
		return nil
	}
	return b.errs[i]
}

// command is the command at i, encoded.
func (b *Batch) command(i int) []byte {
	if i+1 < len(b.places) {
		return b.Request[b.places[i].begin:b.places[i+1].begin]
	}
	return b.Request[b.places[i].begin:]
}

// errand is a command that is to be sent to a node.
type errand struct {
	command int
	node    *node
	asking  bool
}

// part is what of a batch goes to one node.
type part struct {
	node     *node
	batch    Batch
	commands []int // of the whole; -1 for an ASKING before the next
	writes   bool  // by Place.Writes, of one of them
	err      error
}

// doInCluster is Do for a batch of AddAt; as a user of the server's, if that is not nil.
func (p *Pool) doInCluster(ctx context.Context, as *Login, protocol int, b *Batch, alive func() bool) error {
	s, err := p.slots(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	if slices.ContainsFunc(b.places, func(at placed) bool { return at.Join != nil }) { // nobody says MOVED of a node that has come
		if now, err := p.refresh(ctx); err == nil {
			s = now
		}
	}
	var todo []errand
	for i, at := range b.places {
		if at.Join == nil {
			todo = append(todo, errand{command: i, node: s.of(at.Slot)})
			continue
		}
		for _, n := range s.primaries {
			todo = append(todo, errand{command: i, node: n})
		}
	}
	b.heards = nil
	replies, errs := make([][][]byte, b.Commands), make([]error, b.Commands)
	for try := 0; len(todo) > 0; try++ {
		parts := b.divide(todo)
		todo = todo[:0]
		p.doParts(ctx, as, protocol, parts, alive)
		for _, part := range parts {
			todo = p.collect(ctx, b, part, try, replies, errs, todo)
		}
	}
	return b.join(replies, errs)
}

// divide makes a part of what goes to the same node.
func (b *Batch) divide(todo []errand) (parts []*part) {
	for _, e := range todo {
		i := slices.IndexFunc(parts, func(other *part) bool { return other.node == e.node })
		if i < 0 {
			i = len(parts)
			parts = append(parts, &part{node: e.node, batch: Batch{Share: b.Share.Sibling()}})
		}
		to := parts[i]
		if e.asking {
			to.batch.Add([]string{"ASKING"})
			to.commands = append(to.commands, -1)
		}
		to.batch.Request = append(to.batch.Request, b.command(e.command)...)
		to.batch.Commands++
		to.writes = to.writes || b.places[e.command].Writes
		to.commands = append(to.commands, e.command)
	}
	return parts
}

func (p *Pool) doParts(ctx context.Context, as *Login, protocol int, parts []*part, alive func() bool) {
	do := func(part *part) {
		up := func() bool { return alive() && (p.options.Up == nil || p.options.Up(part.node.address)) }
		if as != nil {
			part.err = as.doAt(ctx, part, protocol, up)
			return
		}
		part.err = p.doAt(ctx, part.node, protocol, &part.batch, up)
	}
	var others sync.WaitGroup
	for _, part := range parts[1:] {
		others.Go(func() { do(part) }) // ends with its batch
	}
	do(parts[0])
	others.Wait()
}

// collect sorts what a part was answered into replies and errs, and appends to todo what is to be
// sent elsewhere.
func (p *Pool) collect(ctx context.Context, b *Batch, part *part, try int, replies [][][]byte, errs []error, todo []errand) []errand {
	defer part.batch.Share.End() // b holds what stays
	if part.err != nil {
		s, err := p.refresh(ctx)
		for _, i := range part.commands {
			if i < 0 {
				continue
			}
			at := b.places[i]
			if errors.Is(part.err, ErrNotSent) && err == nil && at.Join == nil && s.of(at.Slot) != part.node && try < mostRedirects {
				todo = append(todo, errand{command: i, node: s.of(at.Slot)})
			} else {
				errs[i] = part.err
			}
		}
		return todo
	}
	begin := 0
	for j, end := range part.batch.Ends {
		reply := part.batch.Replies[begin:end]
		begin = end
		i := part.commands[j]
		if i < 0 {
			continue
		}
		address, asking, redirected := redirect(reply, part.node.address)
		switch {
		case !redirected:
			replies[i] = append(replies[i], reply)
			if try == 0 {
				b.hears(i, part.batch.heard)
			}
		case try == mostRedirects:
			errs[i] = fmt.Errorf("%w: %w", ErrNotSent, errRedirected)
		default:
			todo = append(todo, errand{i, p.cluster.node(address), asking})
			if !asking {
				p.stale(address, b.places[i].Slot)
			}
		}
	}
	return todo
}

// stale has it asked again who has which slot, without waiting, as n has another node.
func (p *Pool) stale(address string, n uint16) {
	if s := p.cluster.known.Load(); s == nil || s.primary[n] == nil || s.primary[n].address != address {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.closed {
			p.running.Go(func() { _, _ = p.refresh(p.ctx) }) // ends with the answer
		}
	}
}

// redirect reads MOVED and ASK as the node at an address has said it.
func redirect(reply []byte, asked string) (address string, asking, ok bool) {
	if len(reply) < 5 || reply[0] != '-' || reply[1] != 'M' && reply[1] != 'A' {
		return "", false, false
	}
	fields := strings.Fields(string(reply[1:]))
	if len(fields) != 3 || fields[0] != "MOVED" && fields[0] != "ASK" {
		return "", false, false
	}
	host, port, err := net.SplitHostPort(fields[2])
	if err != nil {
		return "", false, false
	}
	if host == "" || host == "?" {
		host, _, _ = net.SplitHostPort(asked)
	}
	return net.JoinHostPort(host, port), fields[0] == "ASK", true
}

// join makes Replies and Ends of what the nodes have answered. An error of all commands is the
// batch's.
func (b *Batch) join(replies [][][]byte, errs []error) error {
	var failed error
	good := 0
	for i, of := range replies {
		reply := []byte(nil)
		if len(of) > 0 {
			reply = of[0]
		}
		if at := b.places[i]; at.Join != nil && errs[i] == nil {
			reply = at.Join(of)
		}
		if errs[i] != nil {
			failed = errs[i]
		} else {
			good++
			if b.Share.Hold(len(reply)) {
				b.Replies = append(b.Replies, reply...)
			}
		}
		b.Ends = append(b.Ends, len(b.Replies))
	}
	if failed != nil && good > 0 {
		b.errs = errs
		return nil
	}
	return failed
}

// hears notes in which Hearing the command at i was answered. What was redirected, or could not be sent at first, is in none:
// what was sent around it may have gone elsewhere.
func (b *Batch) hears(i int, h *Hearing) {
	if h == nil {
		return
	}
	if b.heards == nil {
		b.heards = make([]*Hearing, b.Commands)
	}
	b.heards[i] = h
}

// AddressOf is where the primary of a slot is; "" if nobody has asked yet, or nobody has the slot.
func (p *Pool) AddressOf(n uint16) string {
	s := p.cluster.known.Load()
	if s == nil || s.primary[n] == nil {
		return ""
	}
	return s.primary[n].address
}

// OwnAt is Own for the primary of a slot; as a user of the server's, if that is not nil.
func (p *Pool) OwnAt(ctx context.Context, as *Login, protocol int, n uint16) (*Own, error) {
	s, err := p.slots(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	o, err := p.ownAt(ctx, as, s.of(n), protocol)
	if errors.Is(err, ErrNotSent) {
		if now, failed := p.refresh(ctx); failed == nil && now.of(n) != s.of(n) {
			return p.ownAt(ctx, as, now.of(n), protocol)
		}
	}
	return o, err
}

// Redirected reports whether a reply which came by o names another node, for a slot or a key. Then
// it is asked again who has which slot, without waiting.
func (p *Pool) Redirected(o *Own, reply []byte) bool {
	address, asking, ok := redirect(reply, o.node.address)
	if ok && !asking {
		fields := strings.Fields(string(reply))
		n, err := strconv.ParseUint(fields[1], 10, 16)
		if err == nil && n < slot.Count {
			p.stale(address, uint16(n))
		}
	}
	return ok
}

// Follow returns a connection to the node that a reply which came by o names, after ASKING if it
// asks for that; nil if it names none.
func (p *Pool) Follow(ctx context.Context, o *Own, n uint16, reply []byte) (*Own, error) {
	address, asking, ok := redirect(reply, o.node.address)
	if !ok {
		return nil, nil
	}
	if !asking {
		p.stale(address, n)
	}
	to, err := p.ownAt(ctx, o.login, p.cluster.node(address), o.protocol)
	if err != nil || !asking {
		return to, err
	}
	var b Batch
	b.Add([]string{"ASKING"})
	if err := to.Do(&b, func() bool { return ctx.Err() == nil }); err != nil {
		to.Close()
		return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	return to, nil
}

// Serves reports whether the node to which o is connected has a slot, as far as is known.
func (p *Pool) Serves(o *Own, n uint16) bool {
	s := p.cluster.known.Load()
	return s != nil && s.of(n) == o.node
}

// Tags are hash tags of slots: one of each node that has one of those that are named; of each
// primary, if none is.
func (p *Pool) Tags(named []uint16) (tags []string) {
	s := p.cluster.known.Load()
	if s == nil {
		return nil
	}
	nodes := s.primaries
	if len(named) > 0 {
		nodes = nil
		for _, n := range named {
			if owner := s.of(n); !slices.Contains(nodes, owner) {
				nodes = append(nodes, owner)
			}
		}
	}
	for _, n := range nodes {
		tags = append(tags, s.tags[n])
	}
	return tags
}

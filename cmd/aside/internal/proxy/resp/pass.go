package resp

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/cmd/aside/internal/proxy/upstream"
)

// Commands that are not served here are passed on to Redis as they are, and Redis's replies come
// back byte by byte (ADR 14).
//
// Those that keep nothing on their connection share one. A pipeline of them travels as a whole: they
// are gathered (passing), and sent once something else is to be done, or nothing more of the
// client's has arrived. So replies keep their order, and none waits for a request.
//
//	HGET HGET HGET GET        one round trip for the first three, then the GET, from memory
//
// Keys are found as the server's COMMAND says. What memory has of them is dropped before a client
// gets its reply, so that every client of this proxy sees a write that was answered. Scripts may
// change other keys than they name, and FLUSHDB names none: after these nobody gets a reply before
// what Redis pushes for them has arrived.

const (
	mostGathered      = 128      // commands
	mostGatheredBytes = 64 << 10 // of their strings, or a single one
	mostOwnConns      = 1000     // of clients that need one of their own
	longestDial       = 2 * time.Second
)

// passing are the commands of one client that were gathered. It belongs to the connection's
// goroutine while there is something in it.
type passing struct {
	batch upstream.Batch
	calls []passed
	keys  []string // that they may change
	reads []string // that they only read
	bytes int
	heard []hearing // what is read of keys, and may be remembered

	stamped bool // they leave stamps
	unnamed bool // they may change keys that they do not name

	own    bool     // they go to the connection of the client's own
	place  place    // of that
	exec   bool     // EXEC is among them
	stamps []string // keys that a transaction leaves stamps of, if it is done
}

var passings = sync.Pool{New: func() any { return new(passing) }}

// outcome is what has become of a command.
type outcome int

const (
	notPassed    outcome = iota // it is to be answered as if Redis were not asked
	gathered                    // its reply comes
	answered                    // it was refused
	answeredHere                // it was done here, as Redis is away
)

// passed is one command that was gathered.
type passed struct {
	command *upstream.Command // nil: it is none of the server's
	name    string            // for Observe
	mute    bool              // its reply is for nobody
	refusal string            // is the reply, and not what Redis says
	beside  bool              // no client has sent it

	placed bool // Redis is a cluster: it goes to
	place  upstream.Place
}

// wrote reports whether it may have changed something.
func (p passed) wrote() bool { return p.command == nil || !p.command.ReadOnly }

// unshared are commands that change their connection, or what comes on it. They are not sent on
// one that clients share.
var unshared = map[string]bool{
	"MULTI": true, "EXEC": true, "DISCARD": true, "WATCH": true, "UNWATCH": true, "SUBSCRIBE": true, "PSUBSCRIBE": true, "SSUBSCRIBE": true,
	"UNSUBSCRIBE": true, "PUNSUBSCRIBE": true, "SUNSUBSCRIBE": true, "MONITOR": true, "CLIENT": true, "AUTH": true, "HELLO": true, "SELECT": true, "QUIT": true,
	"RESET": true, "ASKING": true, "READONLY": true, "READWRITE": true, "SYNC": true, "PSYNC": true, "REPLCONF": true, "WAIT": true, "WAITAOF": true,
	"CLUSTER": true, "PFDEBUG": true,
}

func isUnshared(args []string) bool {
	name := strings.ToUpper(args[0])
	return unshared[name] || name == "SCRIPT" && len(args) > 1 && strings.EqualFold(args[1], "DEBUG")
}

// scripts are commands that may change keys that they do not name.
var scripts = map[string]bool{"EVAL": true, "EVALSHA": true, "FCALL": true}

// stamping are commands that write values as SET does, so that a replay must know of them. The value
// says whether a reply of 0 means that nothing was changed: then they must leave no stamp.
var stamping = map[string]bool{
	"GETSET": false, "SETRANGE": false, "INCRBYFLOAT": false, "SETBIT": false, "BITFIELD": false, "RENAME": false, "RESTORE": false, "BITOP": false,
	"MSETNX": true, "EXPIREAT": true, "PEXPIREAT": true, "RENAMENX": true, "COPY": true,
}

// connectPool makes what commands are passed on by.
func (s *Server) connectPool() {
	s.deny, _ = upstream.NewDeny(s.options.Deny) // Validate has found nothing wrong with it
	if s.options.Redis == nil || s.deny.All() {
		return
	}
	s.pool = upstream.New(upstream.Options{
		Redis: *s.options.Redis, Address: s.primary, Nodes: s.nodes, Up: s.up, Plain: s.isPlain, DialTimeout: min(s.options.RequestTimeout, longestDial), WriteTimeout: s.options.RequestTimeout,
		MostOwn: mostOwnConns, Open: s.store.Connections(),
	})
}

// primary is the address of the one server that takes writes; "" if that is not known, or not one.
func (s *Server) primary() string {
	redis, ok := s.store.Client().Redis()
	if !ok || redis.Mode() == rueidis.ClientModeCluster {
		return ""
	}
	nodes := redis.Nodes()
	if option := s.options.Redis; len(nodes) == 0 && len(option.InitAddress) == 1 && option.Sentinel.MasterSet == "" {
		return option.InitAddress[0] // the client that knows better is only being made
	}
	if len(nodes) != 1 {
		return ""
	}
	for address := range nodes {
		return address
	}
	return ""
}

// alive reports whether it makes sense to wait for Redis; for a cluster, for one shard at least.
func (s *Server) alive() bool {
	if s.ctx.Err() != nil {
		return false
	}
	health := s.store.Client().Health()
	if health.Mode == aside.Degraded && s.inCluster() {
		return slices.ContainsFunc(health.Shards, func(shard aside.ShardHealth) bool { return shard.Mode != aside.Degraded })
	}
	return health.Mode != aside.Degraded
}

// inTime returns what reports whether it makes sense to wait for Redis within a command's own time.
func (c *conn) inTime() func() bool {
	ends := time.Now().Add(c.server.options.RequestTimeout)
	return func() bool { return c.server.alive() && time.Now().Before(ends) }
}

// protocol is the version that the client speaks.
func (c *conn) protocol() int {
	if c.resp3 {
		return 3
	}
	return 2
}

// ofRedis are sections of INFO that the proxy has nothing to say about.
var ofRedis = map[string]bool{"commandstats": true, "errorstats": true, "latencystats": true}

// passesOn reports whether a command that is served here is Redis's to answer, while that is there.
func (c *conn) passesOn(args []string) bool {
	s := c.server
	if s.pool == nil {
		return false
	}
	switch args[0] {
	case "COMMAND":
		return s.alive()
	case "SELECT":
		return c.isElsewhere(args)
	case "INFO": // the other sections are about the proxy
		return len(args) == 2 && ofRedis[strings.ToLower(args[1])] && s.alive()
	case "CLIENT":
		return len(args) > 1 && strings.EqualFold(args[1], "TRACKING")
	case "CONFIG":
		ours := len(args) > 1 && (strings.EqualFold(args[1], "GET") || strings.EqualFold(args[1], "HELP"))
		return !ours || s.alive() && !s.deny.Names("CONFIG")
	}
	return false
}

// pass gathers a command that is not served here, or answers it where it is not passed on.
func (c *conn) pass(args []string) outcome {
	s := c.server
	if s.pool == nil || c.aborted {
		return notPassed
	}
	if c.user != nil && c.relay == nil && !c.transaction.multi {
		if outcome, ours := c.passAs(args); ours {
			return outcome
		}
	}
	if !c.in.known && c.user == nil && c.relay == nil && !c.transaction.multi && c.transaction.here == nil {
		if outcome := c.passAway(args); outcome != notPassed {
			return outcome
		}
	}
	if c.transaction.here == nil {
		if outcome := c.passPlain(args); outcome != notPassed {
			return outcome
		}
	}
	if outcome, ours := c.passOwn(args); ours {
		return outcome
	}
	if kills(args) {
		return c.kill(args)
	}
	if isUnshared(args) {
		return notPassed
	}
	command, err := c.commandOf(args)
	if err != nil {
		return c.refuse(c.describePassed(err, false))
	}
	if command == nil {
		return notPassed
	}
	if refusal := c.refusalOf(command, args); refusal != "" {
		return c.refuse(refusal)
	}
	keys, err := c.keysOf(command, args)
	if err != nil {
		return c.refuse(c.describePassed(err, false))
	}
	if outcome := c.refuseKeys(keys); outcome != notPassed {
		return outcome
	}
	if command.Blocking && blocks(command, args) {
		return c.block(command, args, keys)
	}
	return c.gather(command, args, keys)
}

// isPlain reports whether there is nothing to be known of a command but its keys: it shares a
// connection, is never denied or refused for what it is, and leaves no stamp.
func (s *Server) isPlain(command *upstream.Command) bool {
	_, stamps := stamping[command.Name]
	name := []string{command.Name}
	return command.Fixed() && !command.Blocking && !stamps && !scripts[command.Name] && !isUnshared(name) && !subscribing[command.Name] && !listsKeys[command.Name] &&
		command.Name != "SORT" && command.Name != "SORT_RO" && !s.deny.Denies(command, name) && !s.deny.NamesPart(command.Name)
}

// passPlain is pass for what most clients send most: a plain command of a client that is nowhere
// else.
func (c *conn) passPlain(args []string) outcome {
	table := c.server.pool.Known()
	if table == nil || c.relay != nil || c.transaction.multi || c.astray {
		return notPassed
	}
	command := table.Lookup(args)
	if command == nil || !command.Plain {
		return notPassed
	}
	keys, ask := command.AppendKeys(c.keys[:0], args)
	if ask {
		return notPassed
	}
	if outcome := c.refuseKeys(keys); outcome != notPassed {
		return outcome
	}
	outcome := c.gather(command, args, keys)
	clear(keys)
	if c.keys = keys; cap(keys) > keptArgs {
		c.keys = nil
	}
	return outcome
}

// refuse answers a command that is not passed on, behind those that are.
func (c *conn) refuse(text string) outcome {
	c.settle()
	c.error(text)
	return answered
}

// commandOf is the server's command that args is; nil if it has none.
func (c *conn) commandOf(args []string) (*upstream.Command, error) {
	table := c.server.pool.Known()
	if table == nil { // for the first time
		c.settle()
		err := c.during(func() (err error) {
			if !c.server.alive() {
				return proxy.ErrDegraded
			}
			table, err = c.server.pool.Table(c.ctx)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return table.Lookup(args), nil
}

// denied reports whether a command that belongs on a connection of the client's own is denied, by its
// name or by a category. Where nobody can say, as Redis is away, it is refused for that.
func (c *conn) denied(args []string) bool {
	if c.server.deny.Names(strings.ToUpper(args[0])) {
		return true
	}
	command, err := c.commandOf(args)
	return err == nil && command != nil && c.server.deny.Denies(command, args)
}

// refusalOf is the answer to a command that is not passed on; "" if it is.
func (c *conn) refusalOf(command *upstream.Command, args []string) string {
	name := strings.ToLower(command.Name)
	switch {
	case c.server.deny.Denies(command, args):
		return notPassedOn(name)
	case c.astray:
		return wrongDB
	case command.Name == "SWAPDB":
		for _, arg := range args[1:] {
			if n, ok := number(arg); ok && n == int64(c.server.options.DB) {
				return "ERR SWAPDB of the proxy's own database is not passed on: what the proxy has in memory and on disk would be of the other"
			}
		}
	case command.Name == "COPY":
		for i := 3; i+1 < len(args); i++ {
			if n, ok := number(args[i+1]); ok && strings.EqualFold(args[i], "DB") && n != int64(c.server.options.DB) {
				return "ERR DB index is out of range"
			}
		}
	case command.Name == "SORT" || command.Name == "SORT_RO":
		for i := 2; i+1 < len(args); i++ {
			if option := strings.ToUpper(args[i]); (option == "BY" || option == "GET") && proxy.MayName(args[i+1]) {
				return "ERR the pattern '" + beginning(args[i+1], 128) + "' may name keys of the proxy's own, which begin with aside: choose one that begins otherwise"
			}
		}
	}
	return ""
}

func notPassedOn(name string) string {
	return "NOPERM this proxy does not pass on '" + name + "': service.deny names it"
}

// blocks reports whether a command that may wait for others does. A group, consumer or stream may
// have the name of an option, so BLOCK counts wherever it stands.
func blocks(command *upstream.Command, args []string) bool {
	if command.Name != "XREAD" && command.Name != "XREADGROUP" {
		return true
	}
	return slices.ContainsFunc(args[1:], func(arg string) bool { return strings.EqualFold(arg, "BLOCK") })
}

// keysOf finds the keys among args.
func (c *conn) keysOf(command *upstream.Command, args []string) ([]string, error) {
	keys, ask := command.Keys(args)
	if !ask {
		return keys, nil
	}
	c.settle()
	args = slices.Clone(args)
	err := c.during(func() error {
		return c.server.store.Pass(c.ctx, proxy.Passing{}, func() (err error) {
			keys, err = c.server.pool.KeysOf(c.ctx, args, c.inTime())
			return err
		})
	})
	return keys, err
}

// gather adds a command to those that are sent next.
func (c *conn) gather(command *upstream.Command, args, keys []string) outcome {
	size := sizeOf(args)
	stamped := !command.Plain && leavesStamp(command.Name, args)
	if p := c.passing; p != nil && (p.own || p.stamped || stamped || c.server.partly()) {
		c.settle()
	}
	call := passed{command: command, name: command.Name}
	if c.server.inCluster() {
		call.placed, call.place = true, c.placeOf(command, args, keys)
	}
	var p *passing
	if w, target := c.mayHear(command, args); target != nil {
		p = c.addHeard(args, size, call, w, target)
	} else {
		p = c.addCall(args, size, call)
	}
	if p == nil {
		return c.refuse(tooMuchAtOnce)
	}
	p.stamped = stamped
	p.unnamed = p.unnamed || !command.Plain && scripts[command.Name] || command.Write && len(keys) == 0
	if command.ReadOnly {
		p.reads = append(p.reads, keys...)
	} else {
		p.keys = append(p.keys, keys...)
	}
	return gathered
}

// leavesStamp reports whether a command is one of stamping. A BITFIELD that only reads is none.
func leavesStamp(name string, args []string) bool {
	writes := func(arg string) bool { return strings.EqualFold(arg, "SET") || strings.EqualFold(arg, "INCRBY") }
	_, ok := stamping[name]
	return ok && (name != "BITFIELD" || slices.ContainsFunc(args[1:], writes))
}

func sizeOf(args []string) (size int) {
	for _, arg := range args {
		size += len(arg) + argBytes
	}
	return size
}

// addCall adds a command, of size bytes, to those that are sent next; nil if there is no room for it.
func (c *conn) addCall(args []string, size int, call passed) *passing {
	p := c.roomFor(size, 1)
	if p != nil {
		c.addTo(p, args, call)
	}
	return p
}

// roomFor returns where so many commands are added, of size bytes in sum, that are sent together; nil if there is no
// room for them.
func (c *conn) roomFor(size, commands int) *passing {
	if p := c.passing; p != nil && (len(p.calls)+commands > mostGathered || p.bytes+size > mostGatheredBytes) {
		c.settle()
	}
	p := c.passing
	if p == nil {
		p = passings.Get().(*passing)
		p.batch.Share = c.server.store.Receiving().Share()
	}
	if !p.batch.Share.Hold(size) {
		if c.passing == nil {
			p.batch.Reset()
			passings.Put(p)
		}
		return nil
	}
	c.passing = p
	p.bytes += size
	return p
}

// addTo adds a command of the client's to p.
func (c *conn) addTo(p *passing, args []string, call passed) {
	if call.placed {
		p.batch.AddAt(args, call.place)
	} else {
		p.batch.Add(args)
	}
	call.mute = c.out.mute
	p.calls = append(p.calls, call)
	c.out.mute, c.skip = c.silent || c.skip, false
	if call.command != nil {
		c.uses(&call.command.Lower)
	}
}

// during calls fn while ctx is that of a command.
func (c *conn) during(fn func() error) error {
	if c.ctx != nil {
		return fn()
	}
	ctx := c.spare
	c.spare = nil
	if deadline := time.Now().Add(c.server.options.RequestTimeout); ctx == nil {
		ctx = proxy.NewLazyContext(c.server.ctx, deadline)
	} else {
		ctx.Begin(deadline)
	}
	c.ctx = ctx
	defer func() {
		c.ctx = nil
		if ctx.End() {
			c.spare = ctx
		}
	}()
	return fn()
}

// settle tells what was answered, sends what was gathered, and writes the replies.
func (c *conn) settle() {
	c.tell()
	p := c.passing
	if p == nil {
		return
	}
	c.passing = nil
	start, mute := time.Now(), c.out.mute
	err := c.during(func() error { return c.send(p) })
	c.now = time.Now()
	if p.ofClient() > 1 && !p.own && c.server.inCluster() && errors.Is(err, proxy.ErrDegraded) {
		c.settleApart(p)
		return
	}
	took := c.now.Sub(start)
	c.keepHeard(p, err)
	// What of a batch is alike is counted at once: one by one, that is a tenth of what a command costs.
	alike := proxy.Answered{Took: took, At: c.now}
	for i, call := range p.calls {
		if call.beside {
			continue
		}
		c.out.mute = call.mute
		c.failed = false
		c.passedReply(p, i, err)
		c.flushReply()
		if alike.Count > 0 && (alike.Command != call.name || alike.Failed != c.failed) {
			c.server.noted(alike)
			alike.Count = 0
		}
		alike.Command, alike.Failed = call.name, c.failed
		alike.Count++
		if c.degraded {
			c.refused(call.command, p.batch.Args(i))
		}
	}
	if alike.Count > 0 {
		c.server.noted(alike)
	}
	c.out.mute, c.failed = mute, false
	if p.own {
		refused := bytes.HasPrefix(p.last(), []byte("-"))
		if refused && p.place.fresh && len(p.calls) == 1 && p.calls[0].name == "WATCH" { // nothing is watched
			c.transaction.watching = false
		}
		c.settledOwn(err, refused)
	}
	p.end()
}

// settleApart is settle of what was gathered when all of the cluster was well, and was not sent, as a shard has gone
// away since: each command by itself, so that it costs those of that shard only.
func (c *conn) settleApart(p *passing) {
	calls, all := slices.Clone(p.calls), make([][]string, len(p.calls))
	for i := range all {
		all[i] = p.batch.Args(i)
	}
	p.end()
	mute, skip := c.out.mute, c.skip
	for i, call := range calls {
		if call.beside { // gather says anew what goes with its command
			continue
		}
		c.out.mute, c.skip = call.mute, false
		keys, err := c.keysOf(call.command, all[i])
		switch {
		case err != nil:
			c.error(c.describePassed(err, false))
			c.flushReply()
		case c.gather(call.command, all[i], keys) == gathered:
			c.settle()
		default: // there is no room for it
			c.flushReply()
		}
	}
	c.out.mute, c.skip = mute, skip
}

// ofClient is how many of the commands the client has sent.
func (p *passing) ofClient() int { return len(p.calls) - 2*len(p.heard) }

// end makes p empty, for the next client.
func (p *passing) end() {
	p.batch.Reset()
	clear(p.calls)
	clear(p.keys)
	clear(p.reads)
	clear(p.stamps)
	clear(p.heard)
	*p = passing{batch: p.batch, calls: p.calls[:0], keys: p.keys[:0], reads: p.reads[:0], heard: p.heard[:0], stamps: p.stamps[:0]}
	passings.Put(p)
}

// send sends what was gathered. A panic is an error of all of it.
func (c *conn) send(p *passing) (err error) {
	defer func() {
		if v := recover(); v != nil {
			c.server.panicked(p.calls[0].name, v)
			err = errPanicked
		}
	}()
	err = c.server.store.Pass(c.ctx, proxy.Passing{Writes: p.keys, Reads: p.reads, Stamps: p.stamped}, func() (err error) {
		switch {
		case p.own:
			err = c.doOwn(p)
		case c.user != nil:
			err = c.user.Do(c.ctx, c.protocol(), &p.batch, c.inTime())
		default:
			err = c.server.pool.Do(c.ctx, c.protocol(), &p.batch, c.inTime())
		}
		if err == nil && p.stamped && !p.changed() {
			return aside.ErrUnchanged
		}
		return err
	})
	if err == nil && p.unnamed {
		c.server.store.Hear(c.ctx, c.tags(p)...)
	}
	if err == nil && len(p.stamps) > 0 && p.done() {
		if err := c.server.store.Pass(c.ctx, proxy.Passing{Writes: p.stamps, Stamps: true}, func() error { return nil }); err != nil {
			c.server.options.Logger.Warn("resp: a transaction was done and left no stamps", "error", err)
		}
	}
	return err
}

// changed reports, of the one command that may leave stamps, whether it has changed something.
func (p *passing) changed() bool {
	reply := p.batch.Replies
	return len(reply) > 0 && reply[0] != '-' && (!stamping[p.calls[0].command.Name] || !bytes.Equal(reply, []byte(":0\r\n")))
}

// passedReply writes the reply of the command at i.
func (c *conn) passedReply(p *passing, i int, err error) {
	if err == nil {
		err = p.batch.Err(i)
	}
	switch {
	case err != nil:
		text := c.describePassed(err, p.calls[i].wrote() && (p.exec || !p.own))
		if text == busy && p.calls[i].name == "EXEC" {
			text = execAbortedBy + text
		}
		c.error(text)
		return
	case p.calls[i].refusal != "":
		c.error(p.calls[i].refusal)
		return
	}
	raw := p.batch.Reply(i)
	if len(raw) == 0 {
		c.error("ASIDEBUSY Redis has done this, and its reply is larger than what may be held now (service.max_receiving_bytes)")
		return
	}
	if p.own && raw[0] == '-' && c.server.inCluster() {
		if text := p.redirected(raw); text != "" {
			c.error(text)
			return
		}
	}
	c.failed = raw[0] == '-' || raw[0] == '!'
	_, _ = c.w.Write(raw)
}

// noted counts commands that were answered.
func (s *Server) noted(a proxy.Answered) {
	s.commands.Add(int64(a.Count))
	if a.Failed {
		s.failed.Add(int64(a.Count))
	}
	if s.options.Observe != nil {
		s.options.Observe(a)
	}
}

// noted counts the command that is served now, and was answered just now.
func (c *conn) noted(name string, took time.Duration, failed bool) {
	c.server.noted(proxy.Answered{Command: name, Count: 1, Took: took, At: c.now, Failed: failed})
}

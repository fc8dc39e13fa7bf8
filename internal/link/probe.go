package link

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/slot"
)

// Nothing is believed of a connection that was not proven on it. A probe is one pipeline on the
// connection that all use:
//
//	PING             refused while the server loads its data
//	SET k "" PX      only where k is not there yet
//	EXISTS k         Redis tracks k for us now
//	PEXPIRE k        a write: Redis pushes "k has changed" to us; a replica refuses it, and so does
//	                 a primary that lacks its replicas
//	TIME             the server's clock, told by a script: a proxy in between may answer TIME itself
//	INFO             on a new connection: is it the same server, and a primary?
//
// k belongs to this client and nobody else. Redis sends the push before the answer to TIME, and
// rueidis handles what it reads in order. So when that answer is here and the push is not, pushes
// are lost or late on this connection: the client is without our tracking, somebody has switched
// tracking off, or a proxy in between drops or reorders them. Then memory is not used. All that was
// sent before the push has been handled, too: an answer with its push proves that no invalidation
// is missing.
//
// A late push must not pass for that of a later probe, so a key whose push was missing is given up
// for one with another name.
//
// PEXPIRE, unlike SET, is done by a server that is full. Where even k cannot be made a script does
// it, see script.Probe.

// probeKeyPrefix begins the keys that probes ask for and change.
const probeKeyPrefix = "aside:probe"

const (
	probeEvery     = 200 * time.Millisecond // at most; a quarter of StaleLease where that is less
	probeDownEvery = 50 * time.Millisecond  // while the shard is degraded: a refused dial is cheap

	probeTTL       = 5 * time.Second        // of a probe key, from the latest probe on: little is left of a process that has ended
	probeTries     = 3                      // of one probe: its key may be gone, or its slot may have
	proofPause     = 200 * time.Millisecond // after a proof that failed; doubled with each one more
	maxProofPause  = 5 * time.Second
	redialPause    = 250 * time.Millisecond // between connections that are given up; likewise
	maxRedial      = 5 * time.Second
	redialPatience = 2 * time.Second // with a server that is loading, or waits for its primary: that usually ends by itself
)

const noPushesRemedy = "a ClientBuilder must return a client that was made from the option it got; a proxy must pass on RESP3 pushes in order (docs/OPERATIONS.md, What may stand between); or switch the memory off (Options.Redis.DisableCache)"

// proof is how a shard's prober proves that pushes arrive. It belongs to the prober, but for what
// says otherwise.
type proof struct {
	key       string // "" if there is none
	used      bool   // it was asked for
	made      bool   // it was there at the latest probe
	crowded   int    // probes in a row that found more than one connection
	full      bool   // the server is too full for SET: make the key by a script
	at        int64  // when the latest probe was sent, but for a PING; in Link.Now's time
	good      int64  // when the latest of these was sent that was answered
	rested    bool   // PINGs have stood in for probes since the latest proof
	epoch     uint64 // the latest that was proven
	pause     time.Duration
	notBefore int64 // in Link.Now's time: when to try again

	redialed int64 // when a connection was given up; 0: not since the latest good probe
	pausing  time.Duration
	badSince int64 // when probes began to be refused; 0: they are not
	failure  error // why the latest has failed; nil: it has not
}

func (l *Link) prober(sh *Shard) {
	defer func() { l.ears.Delete(sh.ear()) }() // which may be another by then
	var back comeback
	rest := rest{used: l.Now()}
	for {
		timer := time.NewTimer(l.pause(sh, &rest))
		select {
		case <-timer.C:
		case <-sh.kick:
			timer.Stop()
		case <-sh.stop:
			timer.Stop()
			return
		case <-l.closing.Done():
			timer.Stop()
			return
		}
		away := !sh.Asks()
		if away {
			l.remind(sh)
		}
		ok, whole := l.look(sh, &rest)
		if ok && whole {
			l.lookAround(sh)
		}
		switch {
		case !away:
			back = comeback{}
		case back.probed(ok, sh.fresh.Load(), l.Now()):
			back = comeback{}
			l.returned(sh)
		}
	}
}

// newProbeKey gives sh's probes a key that nobody has had before: in a cluster in some slot of the
// shard.
func (l *Link) newProbeKey(sh *Shard) {
	l.ears.Delete(sh.ear())
	key := probeKeyPrefix + ":" + l.opt.ID + ":" + strconv.FormatUint(l.probeKeys.Add(1), 36)
	if ranges := sh.slots.Load(); ranges != nil && len(*ranges) > 0 {
		r := (*ranges)[rand.IntN(len(*ranges))]
		key = probeKeyPrefix + "{" + slot.Tag(r.from+uint16(rand.IntN(int(r.to-r.from)+1))) + "}" + key[len(probeKeyPrefix):]
	}
	sh.probeKey.Store(&key)
	sh.proof.key, sh.proof.used, sh.proof.made = key, false, false
	l.ears.Store(key, sh)
}

// mustProve reports whether a probe that begins now has to prove that pushes arrive: always where
// memory depends on them; else once for each connection, for callers that wait for a push.
func (l *Link) mustProve(sh *Shard, epoch uint64) bool {
	return sh.Valid.Tracked() && !sh.several() && (l.opt.Memory || sh.proof.epoch != epoch) && l.Now() >= sh.proof.notBefore
}

// probe finds out whether sh can be used.
func (l *Link) probe(sh *Shard) (ok bool) {
	return l.probing(sh, func() bool { return l.probeWhole(sh) })
}

func (l *Link) probeWhole(sh *Shard) (ok bool) {
	for range probeTries {
		var again bool
		if ok, again = l.probeOnce(sh); !again {
			break
		}
	}
	return ok
}

// probing runs a probe while no other runs.
func (l *Link) probing(sh *Shard, probe func() bool) (ok bool) {
	select { // a write that doubts the clock asks for a probe, too
	case sh.probing <- struct{}{}:
		defer func() { <-sh.probing }()
	case <-time.After(l.opt.RedisTimeout): // the other may wait for us: an Observer that it has told something, and that writes
		return false
	}
	sh.proof.failure = nil
	began := l.Now()
	ok = probe()
	if l.opt.Observed && l.closing.Err() == nil {
		l.up.Observed(Event{Kind: EventProbed, Addr: sh.Addr, Duration: time.Duration(l.Now() - began), Err: sh.proof.failure})
	}
	return ok
}

// probeLimit is how long a probe may take.
func (l *Link) probeLimit(sh *Shard) time.Duration {
	limit := l.opt.RedisTimeout * 3 / 5
	if sh.failing.Load() > 0 && sh.Asks() {
		limit /= 2 // to be sure; not where it would keep a server that is far away from being found again
	}
	if !sh.Asks() && !sh.fresh.Load() { // it may have to dial, and rueidis ends a dial with the caller's context
		limit += 2 * l.dialLimit
	}
	return limit
}

// probeOnce asks once. again: the key was gone, or its slot, and there is another one now.
func (l *Link) probeOnce(sh *Shard) (ok, again bool) {
	p := &sh.proof
	limit := l.probeLimit(sh)
	ctx, cancel := context.WithTimeout(l.closing, limit)
	defer cancel()
	epoch, connection := sh.Valid.Epoch(), sh.Valid.Connection()
	prove := l.mustProve(sh, epoch)
	if p.made && l.Now() >= p.at+int64(probeTTL/2) { // the prober has rested, and its key has expired, or is about to
		p.made = false
	}
	if p.key == "" || prove && !p.made && p.used || !sh.hasSlotOf(p.key) {
		l.newProbeKey(sh)
	}
	ttl := probeTTL.Milliseconds()
	b := sh.client.B()
	ofTime := timeCall()
	commands := append(make([]rueidis.Completed, 0, 7), b.Ping().Build())
	create := prove && !p.made
	switch {
	case create && p.full:
		commands = append(commands, b.Eval().Script(script.Probe.Text()).Numkeys(1).Key(p.key).Arg(script.InMilliseconds(probeTTL)).Build())
	case create:
		commands = append(commands, b.Set().Key(p.key).Value("").PxMilliseconds(ttl).Build())
	}
	keyed := len(commands)
	commands = append(commands, b.Exists().Key(p.key).Build(), b.Pexpire().Key(p.key).Milliseconds(ttl).Build(), ofTime.command(b, false))
	run := sh.run.Load()
	asksRun := run == nil || run.connection != connection || run.replica
	if asksRun {
		commands = append(commands, b.Info().Section("server").Build(), b.Info().Section("replication").Build(), b.ConfigGet().Parameter("proto-max-bulk-len").Build())
	}
	heard, passed, sent := sh.heard.Load(), sh.traffic.passed.Load(), l.Now()
	answers := sh.client.DoMulti(ctx, commands...)
	heardOne := sh.heard.Load() > heard
	if l.closing.Err() != nil {
		return false, false
	}
	p.used, p.at = true, sent

	created, read, write := error(nil), answers[keyed].Error(), answers[keyed+1].Error()
	if create {
		created = answers[1].Error()
	}
	err := answers[0].Error()
	if err == nil {
		err = keyedError(created, read, write)
	}
	var clock *clockSample
	if err == nil {
		ofTime.Reply, ofTime.Err = answers[keyed+2].ToMessage()
		clock, err = l.readClock(sh, ofTime, sent, limit)
	}
	if asksRun && err == nil {
		server, _ := answers[keyed+3].ToString()
		replication, _ := answers[keyed+4].ToString()
		sh.longest.heed(answers[keyed+5])
		run = &runID{id: infoField(server, "run_id"), echoes: strings.HasPrefix(infoField(server, "redis_version"), "6.0."), connection: connection, replica: infoField(replication, "role") == "slave", history: infoField(replication, "master_replid")}
		if run.replica {
			err = errReplica
		}
		l.ran(sh, run)
	}
	if err != nil {
		l.probeFailed(sh, err, sh.flows(sent, passed, l.Now(), limit))
		return false, false
	}

	sh.clock.Store(clock)
	p.good = sent
	same := l.answered(sh, sent, epoch)
	elsewhere, gone := redirected(created, read, write)
	if gone {
		l.newProbeKey(sh)
		l.topologyMoved()
		return false, true
	}
	if !same { // the answer came on another connection than the entries
		return true, false
	}
	if elsewhere { // its slot is moving: that is a sign of life, but none of pushes
		l.newProbeKey(sh)
		return true, true
	}
	if !prove {
		return true, false
	}
	existed, _ := answers[keyed+1].AsInt64()
	refusal := firstError(read, write, created)
	switch {
	case isReply(created, "OOM") && !p.full:
		p.full, p.made = true, false
		return true, true
	case l.crowded(sh):
		l.deafened(sh, fmt.Errorf("%w in order: the client has several connections to one server, and what is read on one is not proven by another: a ClientBuilder must not change PipelineMultiplex, and nobody else may use what it returns for blocking or dedicated commands (Client.Redis has connections of its own)", ErrNoInvalidations))
	case refusal != nil:
		p.made = false
		l.deafened(sh, fmt.Errorf("%w, or that cannot be proven: Redis refuses the probe key %s: %w; permit it (docs/OPERATIONS.md, Permissions), or see why Redis takes no writes", ErrNoInvalidations, strconv.Quote(p.key), refusal))
	case existed == 0: // it was evicted, or flushed
		p.made = false
		return true, true
	case !heardOne:
		p.made = false
		l.deafened(sh, fmt.Errorf("%w: a key that was read and then changed on this connection was not pushed before the next answer: %s", ErrNoInvalidations, noPushesRemedy))
	default:
		p.made, p.full, p.epoch, p.pause, p.notBefore = true, false, epoch, 0, 0
		l.flawed(sh, flawPushes, nil)
		if sh.Valid.Hear() { // which begins an epoch
			return true, true
		}
		if p.rested && sent >= sh.Valid.Lease() {
			// Nobody has looked whether pushes came meanwhile: what memory has may be old.
			p.rested = false
			sh.Valid.Forget(epoch)
			return true, true
		}
		p.rested = false
		sh.Valid.Prove(epoch, sent+int64(l.opt.StaleLease))
		if !l.opt.Memory {
			l.newProbeKey(sh) // which is not made: nothing is written until the next connection
		}
	}
	return true, false
}

// crowdedProbes is how many in a row make it certain that a second connection is not just one that
// is about to be closed.
const crowdedProbes = 3

// crowded reports whether there are several connections to sh's server.
func (l *Link) crowded(sh *Shard) bool {
	if sh.session.open(sh.Addr, l.sentinels()) < 2 {
		sh.proof.crowded = 0
		return false
	}
	sh.proof.crowded++
	return sh.proof.crowded >= crowdedProbes
}

// sentinels are the addresses that are not Redis's.
func (l *Link) sentinels() []string {
	if l.opt.Redis.Sentinel.MasterSet == "" {
		return nil
	}
	return l.opt.Redis.InitAddress
}

// deafened notes that pushes do not arrive, or that this cannot be proven. What was read since they
// did, nobody knows since when they do not, is given up; callers that wait for a push ask again.
func (l *Link) deafened(sh *Shard, why error) {
	p := &sh.proof
	p.pause = min(max(2*p.pause, proofPause), maxProofPause)
	p.notBefore = l.Now() + int64(Jitter(p.pause))
	if sh.Valid.Deafen() {
		sh.beginEpoch()
		l.up.Woken()
	}
	l.flawed(sh, flawPushes, why)
}

// errReplica is why a server is of no use that takes writes all the same.
var errReplica = errors.New("aside: the connection leads to a replica (INFO says role:slave), which may lag behind; name the primary, or have what stands between lead to it")

// errNoAnswer is of a server, or something before it, that answers nothing that is about a key.
type errNoAnswer struct{ reply error }

func (e *errNoAnswer) Error() string {
	return "aside: what answers PING does not answer commands about keys as Redis does: " + e.reply.Error()
}
func (e *errNoAnswer) Unwrap() error { return e.reply }

// keyedError is what the answers to a probe's keyed commands say of the server: nil if it is there.
func keyedError(create, read, write error) error {
	for _, err := range []error{read, write, create} {
		switch judge(err, true) {
		case answered, moved:
		default:
			return err
		}
	}
	if read != nil && write != nil && !isRedisReply(read) && !isRedisReply(write) {
		return &errNoAnswer{reply: read}
	}
	return nil
}

// isRedisReply reports whether err is an error that Redis itself gives to a command about a key.
func isRedisReply(err error) bool {
	reply, ok := replyOf(err)
	return ok && (isReply(err, "NOPERM", "OOM", "WRONGTYPE", "TRYAGAIN") || strings.HasPrefix(reply.Error(), "unknown command") || judge(err, true) != answered)
}

// redirected reports whether a key is, or may be, at another node; gone: for good.
func redirected(errs ...error) (elsewhere, gone bool) {
	for _, err := range errs {
		if reply, ok := replyOf(err); ok {
			_, isMoved := reply.IsMoved()
			_, isAsk := reply.IsAsk()
			gone = gone || isMoved
			elsewhere = elsewhere || isMoved || isAsk || reply.IsTryAgain()
		}
	}
	return elsewhere, gone
}

// probeFailed weighs a probe without an answer, or with one that says that the server is of no use.
// flows: it may be behind something large of ours.
func (l *Link) probeFailed(sh *Shard, err error, flows bool) {
	sh.proof.failure = err
	_, reply := replyOf(err)
	if !errors.Is(err, net.ErrClosed) { // by redial, which had a reason
		sh.because(explained(err))
	}
	_, front := errors.AsType[*errNoAnswer](err)
	useless := reply || front || errors.Is(err, errReplica)
	switch {
	case useless, isDial(err), errors.Is(err, rueidis.ErrClosing):
		l.failed(sh, err, decisive)
	case errors.Is(err, context.DeadlineExceeded) && flows:
	case errors.Is(err, context.DeadlineExceeded):
		l.failed(sh, err, probesTimeout)
	case sh.broken.Swap(true): // and so was the one before
		l.failed(sh, err, decisive)
	default:
		l.failed(sh, err, brokenOnly)
	}
	if useless {
		l.redial(sh, err)
	}
}

// redial gives up the connection to a server that answers and is of no use: a name, a balancer or a
// proxy may lead to another one by now, and nothing else would ever end this connection. Each
// connection that is given up doubles the pause to the next.
func (l *Link) redial(sh *Shard, err error) {
	p, now := &sh.proof, l.Now()
	if p.badSince == 0 {
		p.badSince = now
	}
	atOnce := errors.Is(err, errReplica) || isReply(err, "READONLY", "NOAUTH")
	if !atOnce && now < p.badSince+int64(redialPatience) || p.redialed != 0 && now < p.redialed+int64(p.pausing) {
		return
	}
	p.redialed, p.pausing = now, Jitter(min(max(2*p.pausing, redialPause), maxRedial))
	sh.session.hangUp(sh.Addr, l.sentinels())
}

// infoField returns a field of an answer to INFO, or "".
func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			return value
		}
	}
	return ""
}

package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/stamp"
)

// doctor looks at one Redis and one directory, and takes notes.
type doctor struct {
	ctx     context.Context //nolint:containedctx // of one command
	option  rueidis.ClientOption
	prefix  string
	timeout time.Duration

	checks []check
}

func (d *doctor) note(name string, v verdict, remedy, detail string, args ...any) {
	d.checks = append(d.checks, check{Name: name, Verdict: v, Detail: fmt.Sprintf(detail, args...), Remedy: remedy})
}

const permissions = "allow it, see Permissions (ACL) in docs/OPERATIONS.md"

// redis looks at each primary, and then does with all of them what a proxy does.
func (d *doctor) redis() {
	option := d.option
	if option.Dialer.Timeout == 0 {
		option.Dialer.Timeout = d.timeout
	}
	option.ConnWriteTimeout = d.timeout
	// Without tracking, which servers and users may lack that are to be looked at all the same.
	option.DisableCache, option.AlwaysRESP2 = true, true
	plain, err := rueidis.NewClient(option)
	if err != nil {
		d.note("connection", failure, connectionRemedy(err), "%s: %v", redisName(d.option), err)
		return
	}
	defer plain.Close()
	d.note("connection", fine, "", "%s", redisName(d.option))
	primaries := 0
	nodes := plain.Nodes()
	for _, addr := range sortedKeys(nodes) {
		info, err := d.ask(nodes[addr], "INFO")
		about := parseInfo(info)
		if about["role"] == "slave" {
			continue
		}
		primaries++
		at := ""
		if len(nodes) > 1 {
			at = " " + addr
		}
		if err != nil {
			d.note("info"+at, warning, permissions+" (+info): without it every return of Redis looks like a restart", "%v", err)
		} else {
			d.version(at, about)
			d.eviction(at, about)
		}
		d.clock(at, nodes[addr])
		d.probe(at, nodes[addr])
		d.table(at, nodes[addr], about)
	}
	if primaries == 0 {
		d.note("role", failure, "name the primary, or Sentinel with ?master_set=NAME", "no primary among %s", strings.Join(sortedKeys(nodes), ", "))
		return
	}
	d.leavingNothing(plain, d.work)
	d.commands(plain)
	d.tracking(plain)
}

// probe does what proves that changes are pushed, and that this is a primary.
func (d *doctor) probe(at string, node rueidis.Client) {
	key := "aside:probe:doctor:" + rand.Text()[:10]
	for _, args := range [][]string{{"SET", key, "", "PX", "1000"}, {"EXISTS", key}, {"PEXPIRE", key, "1000"}} {
		if _, err := d.ask(node, args[0], args[1:]...); err != nil && !strings.HasPrefix(err.Error(), "MOVED") {
			d.note("probe"+at, warning, cmp.Or(refusalRemedy(err), permissions+" (~aside:probe* +set +exists +pexpire): without it there is no local memory, and waiters poll"), "%s: %v", args[0], err)
			return
		}
	}
	d.note("probe"+at, fine, "", "the key that proves pushes may be read and changed")
}

// table compares the keys that Redis tracks, for all of its clients, with how many it can.
func (d *doctor) table(at string, node rueidis.Client, about map[string]string) {
	limit := 1_000_000 // unless it is set
	if answer, err := d.ask(node, "CONFIG", "GET", "tracking-table-max-keys"); err == nil {
		if _, value, ok := strings.Cut(answer, " "); ok {
			limit, _ = strconv.Atoi(value)
		}
	}
	tracked, err := strconv.Atoi(about["tracking_total_keys"])
	switch {
	case err != nil:
		d.note("tracking-table"+at, warning, permissions+" (+info): a full table costs hits from memory", "it does not say how many keys it tracks")
	case limit > 0 && tracked >= limit/10*9:
		d.note("tracking-table"+at, warning, "raise tracking-table-max-keys: what it has no place for is invalidated at once, and loaded from Redis again and again", "%d of %d keys", tracked, limit)
	default:
		d.note("tracking-table"+at, fine, "", "%d keys are tracked, of %s", tracked, limitText(limit))
	}
}

func limitText(limit int) string {
	if limit == 0 {
		return "any number"
	}
	return strconv.Itoa(limit)
}

func connectionRemedy(err error) string {
	text := err.Error()
	switch {
	case strings.Contains(text, "WRONGPASS"), strings.Contains(text, "invalid password"):
		return "give the right user and password: redis://user:password@host, or --redis-password-file"
	case strings.Contains(text, "NOAUTH"):
		return "give a password: redis://:password@host, or --redis-password-file"
	case strings.Contains(text, "NOPERM"), strings.Contains(text, "does not run our scripts"):
		return permissions
	case strings.Contains(text, "certificate required"), strings.Contains(text, "bad certificate"), strings.Contains(text, "remote error: tls: unknown"):
		return "Redis wants to see a certificate that it trusts: --redis-tls-cert and --redis-tls-key (or tls-auth-clients no, in Redis)"
	case strings.Contains(text, "certificate"), strings.Contains(text, "tls:"):
		return "rediss:// is for TLS, redis:// for none; the certificate must be for this host, and from an authority that this machine knows or --redis-tls-ca has"
	case strings.Contains(text, "refused"):
		return "start Redis, or name another host and port; its bind and protected-mode must let this machine in"
	default:
		return "look at host, port and firewall; whether the server speaks TLS (rediss:// if so, redis:// if not); and whether it wants to see a certificate (--redis-tls-cert)"
	}
}

// refusalRemedy says what to do when Redis takes no writes, from anybody; "" if it is not that.
func refusalRemedy(err error) string {
	text := ""
	if err != nil {
		text = err.Error()
	}
	switch {
	case strings.Contains(text, "OOM "):
		return "make room in Redis: raise maxmemory, delete what is not needed, or choose a maxmemory-policy that evicts, such as allkeys-lru"
	case strings.Contains(text, "READONLY"):
		return "name the primary, or Sentinel with ?master_set=NAME: this is a replica"
	case strings.Contains(text, "NOREPLICAS"):
		return "bring the replicas back, or lower min-replicas-to-write: the primary takes no writes without them"
	case strings.Contains(text, "MISCONF"):
		return "look at Redis's log and at its disk: it cannot save, and takes no writes until it can"
	default:
		return ""
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// ask runs a command.
func (d *doctor) ask(client rueidis.Client, command string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(d.ctx, d.timeout)
	defer cancel()
	reply, err := client.Do(ctx, client.B().Arbitrary(command).Args(args...).Build()).ToMessage()
	if err != nil {
		return "", err
	}
	if text, err := reply.ToString(); err == nil {
		return text, nil
	}
	if items, err := reply.AsStrSlice(); err == nil {
		return strings.Join(items, " "), nil
	}
	return reply.String(), nil
}

func parseInfo(text string) map[string]string {
	about := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			about[name] = value
		}
	}
	return about
}

func (d *doctor) version(at string, about map[string]string) {
	name, version := "Redis", about["redis_version"]
	if v := about["valkey_version"]; v != "" {
		name, version = "Valkey", v
	}
	var major, minor int
	_, err := fmt.Sscanf(version, "%d.%d", &major, &minor)
	switch {
	case err != nil:
		d.note("version"+at, warning, "Redis 6.0 or later, or Valkey, is needed; look for yourself", "it does not say: %q", version)
	case major < 6:
		d.note("version"+at, failure, "upgrade to Redis 6.0 or later, or Valkey", "%s %s", name, version)
	case major == 6 && minor < 2:
		d.note("version"+at, warning, "it works; from 6.2 on a value that was just filled need not be read back", "%s %s", name, version)
	default:
		d.note("version"+at, fine, "", "%s %s", name, version)
	}
}

func (d *doctor) eviction(at string, about map[string]string) {
	const name = "maxmemory-policy"
	policy, evicted := about["maxmemory_policy"], about["evicted_keys"]
	switch {
	case about["maxmemory"] == "0":
		d.note(name+at, fine, "", "no maxmemory is set: nothing is evicted")
	case evicted != "" && evicted != "0":
		d.note(name+at, warning, "give Redis more memory: an evicted stamp is a forgotten write, which a replay may then overwrite",
			"%s; %s keys have been evicted since it was started", policy, evicted)
	case policy == "noeviction":
		d.note(name+at, warning, "give it room, or choose allkeys-lru: a full server refuses writes, and the proxy's clients get errors", "noeviction")
	default:
		d.note(name+at, fine, "", "%s; nothing has been evicted", policy)
	}
}

// clock compares clocks: that by which scripts write, which is what the library goes by, with this
// machine's and with what TIME says, which a proxy in between may answer itself.
func (d *doctor) clock(at string, client rueidis.Client) {
	off, doubt, err := d.offset(func(b rueidis.Builder) rueidis.Completed {
		return b.Eval().Script("return redis.call('TIME')").Numkeys(0).Build()
	}, client)
	if err != nil {
		d.note("clock"+at, failure, permissions+" (+eval +evalsha +time): without scripts and their clock Redis never counts as well", "TIME in a script: %v", err)
		return
	}
	shown, more, err := d.offset(func(b rueidis.Builder) rueidis.Completed { return b.Time().Build() }, client)
	if apart := (shown - off).Abs() - doubt - more; err == nil && apart > time.Second {
		d.note("clock of TIME"+at, warning, "connect to Redis itself: something in between answers TIME, or spreads commands over servers",
			"the command TIME is %v off the time in scripts", apart.Round(time.Millisecond))
	} else if _, refused := rueidis.IsRedisErr(err); err != nil && !refused {
		d.note("clock of TIME"+at, warning, "connect to Redis itself: something in between answers TIME", "TIME: %v", err)
	}
	detail := fmt.Sprintf("Redis's is %v off this machine's, give or take %v", off.Round(100*time.Microsecond), doubt.Round(10*time.Microsecond))
	const remedy = "run NTP (chrony) on both: what is set by a process that was started while Redis is away is ordered by this machine's clock"
	switch off = off.Abs() - doubt; {
	case off > time.Minute:
		d.note("clock"+at, failure, remedy+", and beyond a minute it is replayed as a delete", "%s", detail)
	case off > 100*time.Millisecond:
		d.note("clock"+at, warning, remedy, "%s", detail)
	default:
		d.note("clock"+at, fine, "", "%s", detail)
	}
}

// offset is by how much a clock is ahead of this machine's. Half a round trip is what cannot be
// known.
func (d *doctor) offset(command func(rueidis.Builder) rueidis.Completed, client rueidis.Client) (off, doubt time.Duration, err error) {
	ctx, cancel := context.WithTimeout(d.ctx, d.timeout)
	defer cancel()
	for try := range 5 { // the quickest answer says most
		sent := time.Now()
		parts, err := client.Do(ctx, command(client.B())).AsIntSlice()
		took := time.Since(sent)
		if err == nil && (len(parts) != 2 || parts[1] < 0 || parts[1] >= 1_000_000) {
			err = fmt.Errorf("%v are not seconds and microseconds", parts)
		}
		if err != nil {
			return 0, 0, err
		}
		if try == 0 || took/2 < doubt {
			off, doubt = time.Unix(parts[0], parts[1]*1000).Sub(sent.Add(took/2)), took/2
		}
	}
	return off, doubt, nil
}

// flushKey is what a client leaves in a database so that a flush takes it along (flushed.go in the
// library).
const flushKey = "aside:probe:made"

// leavingNothing has a client at work, and removes what it leaves behind where nobody else has left
// it before.
func (d *doctor) leavingNothing(plain rueidis.Client, work func()) {
	ctx, cancel := context.WithTimeout(d.ctx, d.timeout)
	there, err := plain.Do(ctx, plain.B().Exists().Key(flushKey).Build()).AsInt64()
	cancel()
	work()
	if err != nil || there != 0 {
		return
	}
	ctx, cancel = context.WithTimeout(d.ctx, d.timeout)
	defer cancel()
	_ = plain.Do(ctx, plain.B().Del().Key(flushKey).Build()).Error() // it would end by itself, in a day
}

// doctorTTL is how long the doctor's own key lives, and with it its stamp, should it not come to
// delete it.
const doctorTTL = 5 * time.Second

// work does what a proxy does: connect as it does, set, read and delete a key, by scripts that also
// write its stamp.
func (d *doctor) work() {
	option := d.option
	if option.AlwaysRESP2 {
		option.DisableCache = true
	}
	answer := min(d.timeout, 10*time.Second)
	client, err := aside.New(aside.Options{
		Redis: option, RequireRedis: true, ConnectTimeout: d.timeout, RedisTimeout: answer, LockTTL: max(2*answer, time.Second), StampTTL: time.Second, MemoryBytes: -1, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		d.note("client", failure, connectionRemedy(err), "the library cannot use it: %v", err)
		return
	}
	defer client.Close()
	switch err := client.Health().Err; {
	case errors.Is(err, aside.ErrNoInvalidations):
		d.note("pushes", warning, "see What may stand between in docs/OPERATIONS.md: without it there is no local memory, and waiters poll", "%v", err)
	case err != nil:
		d.note("health", warning, "see docs/OPERATIONS.md", "%v", err)
	case !option.DisableCache:
		d.note("pushes", fine, "", "a change is pushed before the next answer, on one connection")
	}
	ctx, cancel := context.WithTimeout(d.ctx, d.timeout)
	defer cancel()
	key := d.prefix + "aside:doctor:" + rand.Text()[:10]
	remedy := func(err error) string {
		if errors.Is(err, context.DeadlineExceeded) {
			return "find out why Redis takes so long, or give it longer: --timeout"
		}
		return cmp.Or(refusalRemedy(err), permissions+"; with --prefix this uses keys that begin as yours do")
	}
	if err := client.Set(ctx, doctorTTL, key, "v"); err != nil {
		d.note("scripts", failure, remedy(err), "set: %v", err)
		return
	}
	if _, found, err := client.Peek(ctx, key); err != nil || !found {
		d.note("scripts", failure, remedy(err), "get: found %v, %v", found, err)
		return
	}
	if err := client.Touch(ctx, doctorTTL, key); err != nil {
		d.note("scripts", failure, remedy(err), "expire: %v", err)
		return
	}
	if err := client.Del(ctx, key); err != nil {
		d.note("scripts", failure, remedy(err), "delete: %v", err)
		return
	}
	d.note("scripts", fine, "", "a key, and its "+stamp.KeyPrefix+"*, may be set, read and deleted")
}

// commands tries, one by one, what only the proxy's RESP commands need.
func (d *doctor) commands(plain rueidis.Client) {
	key := d.prefix + "aside:doctor:" + rand.Text()[:10]
	var denied []string
	for _, args := range [][]string{
		{"SET", key, "1", "PX", "60000"}, // so that nothing stays, whatever happens
		{"SETNX", key, "1"}, {"INCR", key}, {"INCRBY", key, "2"}, {"DECR", key}, {"DECRBY", key, "2"}, {"APPEND", key, "0"}, {"STRLEN", key},
		{"GETRANGE", key, "0", "0"}, {"TYPE", key}, {"PTTL", key}, {"PERSIST", key}, {"PEXPIRE", key, "60000"}, {"SCAN", "0", "COUNT", "1"}, {"DEL", key},
		{"CLIENT", "ID"},
	} {
		_, err := d.ask(plain, args[0], args[1:]...)
		reply, refused := rueidis.IsRedisErr(err)
		switch {
		case refused && strings.HasPrefix(reply.Error(), "NOPERM"):
			right := args[0]
			if right == "CLIENT" {
				right += "|" + args[1]
			}
			denied = append(denied, "+"+strings.ToLower(right))
		case refused, err == nil, rueidis.IsRedisNil(err):
		default:
			d.note("commands", failure, connectionRemedy(err), "%s: %v", args[0], err)
			return
		}
	}
	if len(denied) > 0 {
		d.note("commands", warning, "allow them, if RESP clients of the proxy count, list or append, and +client|id for service.outage_collections; the library needs none of them", "not permitted: %s", strings.Join(denied, " "))
		return
	}
	d.note("commands", fine, "", "what RESP commands of the proxy need is permitted")
}

// tracking sees whether Redis pushes a change that another connection makes.
func (d *doctor) tracking(plain rueidis.Client) {
	const without = "without it there is no local memory, and waiters poll"
	option := d.option
	if option.DisableCache || option.AlwaysRESP2 {
		d.note("RESP3", warning, "leave out protocol=2 and client_cache=0 from the url: "+without, "switched off in the url")
		return
	}
	pushed := make(chan struct{}, 1)
	option.ConnWriteTimeout = d.timeout
	if option.Dialer.Timeout == 0 {
		option.Dialer.Timeout = d.timeout
	}
	option.OnInvalidations = func(messages []rueidis.RedisMessage) {
		if messages != nil { // nil: a connection was lost
			select {
			case pushed <- struct{}{}:
			default:
			}
		}
	}
	client, err := rueidis.NewClient(option)
	if err != nil {
		d.note("RESP3", warning, "upgrade Redis, or permit HELLO and CLIENT TRACKING (+client|tracking): "+without, "%v", err)
		return
	}
	defer client.Close()
	d.note("RESP3", fine, "", "spoken")
	ctx, cancel := context.WithTimeout(d.ctx, d.timeout)
	defer cancel()
	key := d.prefix + "aside:doctor:" + rand.Text()[:10]
	set := func(value string) error {
		return plain.Do(ctx, plain.B().Set().Key(key).Value(value).PxMilliseconds(time.Minute.Milliseconds()).Build()).Error()
	}
	err = set("1")
	if err == nil {
		err = client.DoCache(ctx, client.B().Get().Key(key).Cache(), time.Minute).Error()
	}
	began := time.Now()
	if err == nil {
		err = set("2")
	}
	if err != nil {
		d.note("tracking", warning, cmp.Or(refusalRemedy(err), permissions+": "+without), "%v", err)
		return
	}
	select {
	case <-pushed:
		d.note("tracking", fine, "", "a change by another connection was pushed after %v", time.Since(began).Round(10*time.Microsecond))
	case <-ctx.Done():
		d.note("tracking", failure, "is there a proxy between that does not pass on pushes? Connect directly, or switch it off with client_cache=0 in the url",
			"a change was not pushed within %v", d.timeout)
	}
	_ = plain.Do(ctx, plain.B().Del().Key(key).Build()).Error() // it ends by itself in a minute
}

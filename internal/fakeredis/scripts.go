package fakeredis

import (
	"encoding/binary"
	"regexp"
	"strings"

	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/wire"
)

// The twins of internal/script's Lua: line for line the same, with the same names, to be read side
// by side. Each is known by the sum of the Lua that it was written for. (readOrLockMany does what its Lua does where SET NX
// GET cannot be had, which comes to the same.)

// twin is a script as a function.
type twin struct {
	name string // of its file
	run  func(r *run) any
}

// twins are by the SHA-1 of the Lua as it is sent. A test fails where a script is not the one that
// its twin was written for: change the function, then the sum.
var twins map[string]twin

func init() { // some use the commands, and these the table
	twins = map[string]twin{
		"4c422f0cc1736339e0761f4834ee636f33ed4f3c": {"read_or_lock", readOrLock},
		"bca2311aa722c8122fdd781080625e51fe595c5b": {"read_or_lock_many", readOrLockMany},
		"b7b8ebc71f8d177eba61ccb472e7e3e824ba4433": {"replace_or_lock", replaceOrLock},
		"a3a452a20b09b97b2c6d0b4ad326866dc957e416": {"read", read},
		"13b6e42e904407fa3a3b3c088fcf392d93ae6e2a": {"fill", fill},
		"27904b6942e4fd22a867b2f1f063d49ad8366752": {"fill_many", fillMany},
		"97446597861ae0f571c9f04379b3b2c222560fdf": {"renew", renew},
		"1aa837c01cd8af209e4bc36579fdd43564a9459b": {"release", release},
		"848a65cff859ec67c3ed48a34577e79be746cae0": {"release_failed", releaseFailed},
		"527f085228f133edafd41f0c270f1a02c83bf8dd": {"refresh", refresh},
		"200841d721745089644db51d5e483b3507e1c1cb": {"refreshed", refreshed},
		"9b48b3bbd83e65a14bbfe1bec1e5556a85d3625e": {"refresh_failed", refreshFailed},
		"3475351639110be43ce378a6a7008dcb4e73d301": {"set", setStamped},
		"0850cbcaece61c1ec6510eae537fc9b38a09649e": {"set_bare", setBare},
		"e887d17a1cf23937d69ae4361538a045fa027066": {"del", delStamped},
		"9a4a9f291488fad9d4ba44b5b4006c0b38c41da5": {"del_bare", delBare},
		"7be066ef5b853a53259519930ca9baba9b58553d": {"touch", touch},
		"e817f9e36f1a25bb388378c833530b9210ba991c": {"expire", expireStamped},
		"a47a1a7109e87fcb84e92d30e8ef844dc873ac01": {"expire_bare", expireBare},
		"81d4a54a8a982fc0c200d913d2f5b1bf35374112": {"mark", mark},
		"f0d2676e5f5d911336e04b51b4a4a3a324c2b528": {"stamp", stampOnly},
		"48df9b519ca145c867b895f740b37bd891e887af": {"nothing", nothing},
		"cea250446413a795a6c0f532414d60304411e08e": {"replay", replay},
		"2f0a8077603fc9ccf470a91b852c9bfef9868123": {"replay_bare", replayBare},
		"37a1e403fc1aa6b6e8d522b6353c607c92fd8227": {"time", timeOf},
		"7515b855d39754f40894f6542a708b8bf50296ab": {"probe", probe},
		"94e22d8fe165fdc860678c6bdf4d8a755ff18832": {"who", who},
		"e33e8b2017e18bc2fe1a3f5e188d3439217a6b2e": {"group", group},
		"552284b815dd6744d832ea155525c9b0c81b6dfb": {"made", made},
		"b2f606cfd8a309cca0730faf51e67e154475acfd": {"withheld", withheld},
		"3613b70fdae84ed9bc1185f4fc42606111f3d734": {"explain", explain},
		"de0b6a185b2f242bb08882f096ee04cb3c886451": {"ledger", ledger},
		"626907d36afc766cf059f9c8acd194cbe5412bad": {"operate", operate},
	}
}

// lib/clock.lua

// clock is the server's time in µs.
func (r *run) clock() int64 {
	t := r.call("TIME").([]any)
	return number(t[0].(string))*1_000_000 + number(t[1].(string))
}

var (
	windowEnd   = regexp.MustCompile(`\d+$`)
	windowBegin = regexp.MustCompile(`^\d+-`)
)

// untimely is the answer that refuses a script which runs outside of its window, else nil.
func untimely(now int64, window string) any {
	if now > number(windowEnd.FindString(window)) {
		return int64(0)
	}
	if begin := windowBegin.FindString(window); begin != "" && now < number(begin[:len(begin)-1]) {
		return int64(-1)
	}
	return nil
}

// lib/look.lua

// look is what a key holds, without its being tracked.
func (r *run) look(key string) any {
	v := r.pcall("GETEX", key)
	if _, failed := v.(failure); failed {
		return r.call("GET", key)
	}
	return v
}

// lib/put.lua

// longestTTL is LONGEST_TTL.
var longestTTL = script.Milliseconds(wire.LongestTTL)

// put writes a value for a ttl in ms.
func (r *run) put(key, value string, ttl int64) any {
	if ttl > longestTTL {
		return r.call("SET", key, value)
	}
	return r.call("PSETEX", key, ttl, value)
}

// lib/shorten.lua

// graceIn is the grace that the header of a value states, in ms.
func graceIn(head string) (ms int64, ok bool) {
	if !strings.HasPrefix(head, wire.HeaderPrefix) && !strings.HasPrefix(head, wire.AbsentHeaderPrefix) {
		return 0, false
	}
	rest := head[min(len(head), 11):]
	varint := func() int64 {
		n, bytes := binary.Uvarint([]byte(rest))
		rest = rest[max(bytes, 0):]
		return int64(n)
	}
	if began, ok := strings.CutPrefix(rest, "b"); ok {
		rest = began
		varint()
	}
	if rest, ok = strings.CutPrefix(rest, "l"); ok {
		varint()
		return varint(), true
	}
	return 0, false
}

// shorten has a value end within grace ms, and 10 ms sooner than it did, at least.
func (r *run) shorten(key string, grace int64, locks []string) int64 {
	left := r.call("PTTL", key).(int64)
	head, _ := r.pcall("GETRANGE", key, 0, 63).(string)
	if g, ok := graceIn(head); ok {
		grace = min(grace, g)
	}
	if left == -1 {
		left = grace
	} else {
		left = min(grace, left-10)
	}
	for _, prefix := range locks {
		if strings.HasPrefix(head, prefix) {
			left = 0
		}
	}
	if left > 0 {
		r.call("PEXPIRE", key, left)
		return left
	}
	r.call("UNLINK", key)
	return 0
}

// The lock on a key.

func readOrLock(r *run) any {
	key := r.keys[0]
	locked := r.pcall("SET", key, r.args[0], "NX", "PX", r.args[1])
	if locked == okay {
		return []any{int64(1), int64(0)}
	}
	most := number(r.args[2])
	v, left := r.call("GETRANGE", key, 0, most), r.call("PTTL", key)
	if left == int64(-2) {
		return locked
	}
	if int64(len(v.(string))) > most {
		return []any{int64(2), r.call("SETRANGE", key, 0, "")}
	}
	return []any{v, left}
}

func readOrLockMany(r *run) any {
	marker, ttl := r.args[0], r.args[1]
	answer := make([]any, 2*len(r.keys))
	done := make([]bool, len(r.keys)) // answer[2*i] in Lua
	var mine, others []string
	sum := int64(0)
	for i, key := range r.keys {
		locked := r.pcall("SET", key, marker, "NX", "PX", ttl)
		if locked == okay {
			mine = append(mine, key)
			answer[2*i], answer[2*i+1], done[i] = int64(1), int64(0), true
			continue
		}
		size, _ := r.pcall("SETRANGE", key, 0, "").(int64)
		if sum > 0 && sum+size > number(r.args[2]) {
			answer[2*i], answer[2*i+1], done[i] = int64(2), size, true
		} else {
			sum += size
			others = append(others, key)
			answer[2*i] = locked
		}
	}
	if len(mine) == len(r.keys) {
		return int64(1)
	}
	if len(others) == 0 {
		return answer
	}
	values, n := r.callKeys("MGET", others).([]any), 0
	for i, key := range r.keys {
		if done[i] {
			continue
		}
		v := values[n]
		n++
		if v != nil {
			answer[2*i], answer[2*i+1] = v, r.call("PTTL", key)
			continue
		}
		// gone, or of another type
		if answer[2*i] == nil {
			answer[2*i] = r.pcall("GET", key)
		}
		answer[2*i+1] = int64(-2)
	}
	for _, key := range mine {
		r.call("PEXPIRE", key, ttl)
	}
	return answer
}

func replaceOrLock(r *run) any {
	v := r.call("GET", r.keys[0])
	if v != nil && sha1hex(v.(string)) != r.args[2] {
		return []any{v, r.call("PTTL", r.keys[0])}
	}
	r.call("SET", r.keys[0], r.args[0], "PX", r.args[1])
	return []any{int64(1), int64(0)}
}

func read(r *run) any {
	if size, ok := r.pcall("SETRANGE", r.keys[0], 0, "").(int64); ok && size > number(r.args[1]) {
		return []any{int64(2), size}
	}
	v := r.look(r.keys[0])
	if v == nil || strings.HasPrefix(v.(string), r.args[0]) {
		return []any{nil, int64(-2)}
	}
	return []any{v, r.call("PTTL", r.keys[0])}
}

func fill(r *run) any {
	key := r.keys[0]
	if r.look(key) != r.args[0] {
		return []any{int64(0)}
	}
	r.put(key, r.args[1], number(r.args[2]))
	r.call("EXISTS", key)
	return []any{int64(1)}
}

func fillMany(r *run) any {
	answer, refused := make([]any, len(r.keys)), false
	for i, key := range r.keys {
		a := 3 * i
		if r.look(key) == r.args[a] {
			r.put(key, r.args[a+1], number(r.args[a+2]))
			answer[i] = int64(1)
		} else {
			answer[i], refused = int64(0), true
		}
	}
	r.callKeys("EXISTS", r.keys)
	if !refused {
		return int64(1)
	}
	return answer
}

func renew(r *run) any {
	answer := make([]any, len(r.keys))
	for i, key := range r.keys {
		if answer[i] = int64(0); r.look(key) == r.args[i+1] {
			answer[i] = r.call("PEXPIRE", key, r.args[0])
		}
	}
	return answer
}

func release(r *run) any {
	answer := make([]any, len(r.keys))
	for i, key := range r.keys {
		if answer[i] = int64(0); r.look(key) == r.args[i] {
			answer[i] = r.call("DEL", key)
		}
	}
	return answer
}

func releaseFailed(r *run) any {
	answer := release(r)
	r.callKeys("EXISTS", r.keys)
	return answer
}

// Writes that leave no stamps.

func setBare(r *run) any {
	if refusal := untimely(r.clock(), r.args[0]); refusal != nil {
		return refusal
	}
	for i, key := range r.keys {
		r.put(key, r.args[2*i+1], number(r.args[2*i+2]))
	}
	return int64(1)
}

func delBare(r *run) any {
	if refusal := untimely(r.clock(), r.args[0]); refusal != nil {
		return refusal
	}
	r.callKeys("UNLINK", r.keys)
	return int64(1)
}

func touch(r *run) any {
	if refusal := untimely(r.clock(), r.args[0]); refusal != nil {
		return refusal
	}
	last := len(r.args) - 1
	for _, key := range r.keys {
		head, lock := r.call("GETRANGE", key, 0, 31).(string), false
		for _, prefix := range r.args[2:last] {
			lock = lock || strings.HasPrefix(head, prefix)
		}
		if head != r.args[last] && !lock {
			if number(r.args[1]) > longestTTL {
				r.call("PERSIST", key)
			} else {
				r.call("PEXPIRE", key, r.args[1])
			}
		}
	}
	return int64(1)
}

func expireBare(r *run) any {
	if refusal := untimely(r.clock(), r.args[0]); refusal != nil {
		return refusal
	}
	for _, key := range r.keys {
		r.shorten(key, number(r.args[1]), r.args[2:])
	}
	return int64(1)
}

func nothing(*run) any { return int64(1) }

func replayBare(r *run) any {
	if refusal := untimely(r.clock(), r.args[0]); refusal != nil {
		return refusal
	}
	answers := make([]any, len(r.keys))
	for i, key := range r.keys {
		op := r.args[i+1]
		if op != "fill" {
			r.call("UNLINK", key)
		}
		answers[i] = map[string]int64{"fill": 2, "set": 3, "del": 1}[op]
	}
	return answers
}

// What is found out about a server.

func timeOf(r *run) any { return r.call("TIME") }

func probe(r *run) any {
	r.call("PEXPIRE", r.keys[0], r.args[0])
	return r.call("SET", r.keys[0], "", "PX", r.args[0])
}

func who(r *run) any { return r.call("INFO", "server") }

func made(r *run) any {
	if made, ok := r.look(r.keys[0]).(string); ok {
		if _, ok := isNumber(made); ok {
			r.call("PEXPIRE", r.keys[0], r.args[0])
			return made
		}
	}
	made := padded(r.clock())
	r.call("SET", r.keys[0], made, "PX", r.args[0])
	return made
}

func withheld(r *run) any { return failure(r.args[0]) }

func explain(r *run) any {
	k, count := r.keys[0], int(number(r.args[2]))
	lock := r.keys[count-1]
	text := func(v any) any {
		if s, ok := v.(string); ok {
			return s
		}
		return nil
	}
	numberOf := func(v any, otherwise int64) int64 {
		if n, ok := v.(int64); ok {
			return n
		}
		return otherwise
	}
	size, ok := r.pcall("STRLEN", k).(int64)
	if !ok {
		size = numberOf(r.pcall("SETRANGE", k, 0, ""), -1)
	}
	kind, _ := r.pcall("TYPE", k).(status)
	var v, stamp, held any
	if size > 0 {
		v = text(r.pcall("GETRANGE", k, 0, r.args[0]))
	}
	if got, ok := r.pcall("HMGET", r.keys[count], r.args[1]).([]any); ok {
		stamp = text(got[0])
	}
	if count > 1 {
		held = text(r.pcall("GET", lock))
	}
	return []any{string(kind), size, numberOf(r.pcall("PTTL", k), -1), v, stamp, held, numberOf(r.pcall("PTTL", lock), -2)}
}

// The states of groups.

func group(r *run) any {
	madeNow := padded(r.clock())
	makes := func(key, ttl string, nx bool) bool {
		args := []any{"SET", key, madeNow}
		if ttl != "0" {
			args = append(args, "PX", ttl)
		}
		if nx {
			args = append(args, "NX")
		}
		return r.pcall(args...) == okay
	}
	for i, key := range r.keys {
		makes(key, r.args[i], true)
	}
	states := r.callKeys("MGET", r.keys).([]any)
	answer := make([]any, 0, 2*len(r.keys))
	for i, key := range r.keys {
		v, left := states[i], r.call("PTTL", key)
		state, _ := v.(string)
		if _, ok := isNumber(state); !ok || len(state) != 16 || strings.Trim(state, "0123456789") != "" {
			if v = nil; makes(key, r.args[i], false) {
				v = madeNow
			}
			left = r.call("PTTL", key)
		} else if r.args[i] != "0" && 2*left.(int64) < number(r.args[i]) {
			r.pcall("PEXPIRE", key, r.args[i])
			left = r.call("PTTL", key)
		}
		answer = append(answer, v, left)
	}
	r.callKeys("EXISTS", r.keys)
	return answer
}

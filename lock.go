package aside

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/redis/rueidis"

	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/slot"
	"github.com/redaside/aside/internal/sums"
	"github.com/redaside/aside/internal/wire"
)

// The lock on a key, in Redis. There is no second key: while somebody loads a key, the key itself holds that load's
// marker (see internal/wire), with LockTTL as its expiry.
//
//	read-or-lock   one question, three answers: "here it is", "you load it", "somebody is loading it"
//	fill           the value, if the key still holds our marker
//	renew          LockTTL again, if …
//	release        nothing, if …
//
// A Set or Del during the load replaces or removes the marker, so the fill that follows is refused: a load never
// overwrites what was written after it began. A marker is unique per acquisition, not per client: else a load that was
// overtaken could pass for the next one of the same client.
//
// A hit changes nothing, so it works on a full or a read-only server, where the attempt to lock is refused.
//
// Which keys Redis tracks for us decides what it pushes to us, and it tracks what a read-only command has read. Reading a
// key before we write it would make Redis push our own write back to us, right behind the answer, and what we filled would
// be gone from our memory. (The option NOLOOP, which is meant for that, also withholds the pushes for keys that our own
// commands evict: see docs/adr/0001.) So the scripts write first where they can, and look with GETEX where they must: it
// counts as a write and leaves no trace. Where it cannot be had (before Redis 6.2) GET serves, at the price of a read more.
// What we want to be told about is read at last: what was found (GET), what was filled (EXISTS).
//
// All scripts take many keys; in a cluster, keys of one slot. Redis runs a script at once and whole.

// script is a Lua script and its SHA-1, by which Redis remembers it.
type script struct{ text, sha string }

func newScript(text string) *script {
	sum := sums.SHA1(text)
	return &script{text: text, sha: hex.EncodeToString(sum[:])}
}

// luaLook defines look: what a key holds, without being told when it changes.
const luaLook = `
local call = redis.call
local function look(key)
  local v = redis.pcall('GETEX', key)
  if type(v) == 'table' then return call('GET', key) end
  return v
end`

// luaPut defines put, which writes a value for a ttl in ms; what is longer than LongestTTL is none.
var luaPut = `
local function put(key, value, ttl)
  if tonumber(ttl) > ` + milliseconds(LongestTTL) + ` then return redis.call('SET', key, value) end
  return redis.call('SET', key, value, 'PX', ttl)
end`

// luaClock defines clock: the server's time in µs; and untimely: the answer that refuses a script which is run later than its window
// (0), or earlier by far than it was by the clock that its client goes by (-1), which is another then; else nil. See writeWindow.
const luaClock = `
local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end
local function untimely(now, window)
  if now > tonumber(window:match('%d+$')) then return 0 end
  if now < tonumber(window:match('^(%d+)%-') or 0) then return -1 end
end`

// luaStamps defines what scripts do with stamps (stamp.go). Times are numbers: 2^53 µs end in the year 2255.
// stampOf: what is there, if it is a stamp; looked at without being told when it changes.
// overtaken: the stamp that is there is of this operation, or of a later one of the same client.
// later: the stamp to leave, which is greater than the one that is there, for a value that ends then (ms; 0: there is none).
const luaStamps = luaLook + luaClock + `
local function stampOf(key)
  local s = redis.pcall('GETEX', key)
  if type(s) == 'table' then s = redis.pcall('GET', key) end
  if type(s) == 'string' and tonumber(s:sub(1, 16)) and tonumber(s:sub(33, 44)) and tonumber(s:sub(45, 60)) and tonumber(s:sub(61)) then
    return s
  end
end
local function overtaken(was, mine)
  return was and was:sub(17, 32) == mine:sub(17, 32) and tonumber(was:sub(33, 44)) >= tonumber(mine:sub(33, 44))
end
local function digits(n) return string.format('%.0f', n) end
local function padded(n) return string.format('%016.0f', n) end
local function later(now, was, mine, ends)
  local t = math.max(now, tonumber(mine:sub(1, 16)))
  if was then t = math.max(t, tonumber(was:sub(1, 16)) + 1) end
  return padded(t) .. mine:sub(17) .. padded(0) .. digits(ends)
end`

var (
	// KEYS: k   ARGV: marker, LockTTL in ms, most bytes to answer.   Answer: v, ttl
	// v is what the key holds (ttl: its PTTL), or 1: our marker now, or 2: more than that (ttl: how much; see turns). A second run finds
	// the marker of the first. (SETRANGE of nothing tells the length, and is no read: what is read is tracked.)
	scriptReadOrLock = newScript(`
local key, call = KEYS[1], redis.call
local locked = redis.pcall('SET', key, ARGV[1], 'NX', 'PX', ARGV[2])
if locked and locked.ok then return {1, 0} end
local size = redis.pcall('SETRANGE', key, 0, '')
if type(size) == 'number' and size > tonumber(ARGV[3]) then return {2, size} end
local v = call('GET', key)
if not v then return locked end
return {v, call('PTTL', key)}`)

	// The same for many keys. KEYS: k…   ARGV: marker, LockTTL in ms, most bytes to answer, if they are of more than one value.   Answer: v, ttl, v, ttl, …; v may be an error.
	// Up to Redis 7.0 whatever a script reads makes all its keys tracked, at a cost that grows with their square. Hence
	// the passes: to lock before anything is read, to read at once, and, if something was, to write once more what was
	// locked, which ends its being tracked.
	scriptReadOrLockMany = newScript(`
local call, marker, ttl = redis.call, ARGV[1], ARGV[2]
local answer, mine, others, sum = {}, {}, {}, 0
for i = 1, #KEYS do
  local key = KEYS[i]
  local locked = redis.pcall('SET', key, marker, 'NX', 'PX', ttl)
  if locked and locked.ok then
    mine[#mine+1] = key
    answer[2*i-1], answer[2*i] = 1, 0
  else
    local size = redis.pcall('SETRANGE', key, 0, '')
    if type(size) ~= 'number' then size = 0 end
    if sum > 0 and sum + size > tonumber(ARGV[3]) then
      answer[2*i-1], answer[2*i] = 2, size
    else
      sum = sum + size
      others[#others+1] = key
      answer[2*i-1] = locked
    end
  end
end
if #others == 0 then return answer end
local values, n = call('MGET', unpack(others)), 0
for i = 1, #KEYS do
  if not answer[2*i] then
    n = n + 1
    local v = values[n]
    if v then
      answer[2*i-1], answer[2*i] = v, call('PTTL', KEYS[i])
    else -- gone, or of another type
      answer[2*i-1], answer[2*i] = answer[2*i-1] or redis.pcall('GET', KEYS[i]), -2
    end
  end
end
for i = 1, #mine do call('PEXPIRE', mine[i], ttl) end
return answer`)

	// The same for one key that holds something unreadable, given by its SHA-1: that counts as nothing.
	// KEYS: k   ARGV: marker, LockTTL in ms, SHA-1.   Answer: v, ttl.
	scriptReplaceOrLock = newScript(`
local v = redis.call('GET', KEYS[1])
if v and redis.sha1hex(v) ~= ARGV[3] then
  return {v, redis.call('PTTL', KEYS[1])}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {1, 0}`)

	// KEYS: k   ARGV: lock prefix, most bytes to answer.   Answer: v, ttl; v is false where there is none, or a lock; or 2, and how much
	// it is. Changes nothing.
	scriptRead = newScript(luaLook + `
local size = redis.pcall('SETRANGE', KEYS[1], 0, '')
if type(size) == 'number' and size > tonumber(ARGV[2]) then return {2, size} end
local v = look(KEYS[1])
if not v or string.sub(v, 1, #ARGV[1]) == ARGV[1] then return {false, -2} end
return {v, redis.call('PTTL', KEYS[1])}`)

	// KEYS: k   ARGV: marker, value, ttl in ms.   Answer: {1} (stored) or {0} (refused)
	// A second run finds no marker and is refused. (GETEX being a write, a fill is stored even on a server that has become
	// full since the lock was taken.)
	scriptFill = newScript(luaPut + `
local key, call = KEYS[1], redis.call
local v = redis.pcall('GETEX', key)
if type(v) == 'table' then v = call('GET', key) end
if v ~= ARGV[1] then return {0} end
put(key, ARGV[2], ARGV[3])
call('EXISTS', key)
return {1}`)

	// The same for many keys. KEYS: k…   ARGV: marker, value, ttl in ms, …   Answer: 1 or 0, …
	scriptFillMany = newScript(luaLook + luaPut + `
local answer = {}
for i = 1, #KEYS do
  local a = 3*i-2
  if look(KEYS[i]) == ARGV[a] then
    put(KEYS[i], ARGV[a+1], ARGV[a+2])
    answer[i] = 1
  else
    answer[i] = 0
  end
end
call('EXISTS', unpack(KEYS))
return answer`)

	// KEYS: k…   ARGV: LockTTL in ms, marker…   Answer: 1 (still ours) or 0, …
	scriptRenew = newScript(luaLook + `
local answer = {}
for i, key in ipairs(KEYS) do
  answer[i] = look(key) == ARGV[i+1] and redis.call('PEXPIRE', key, ARGV[1]) or 0
end
return answer`)

	// KEYS: k…   ARGV: marker…   Answer: 1 (it was ours until now) or 0, …
	scriptRelease = newScript(luaLook + `
local answer = {}
for i, key in ipairs(KEYS) do
  answer[i] = look(key) == ARGV[i] and redis.call('DEL', key) or 0
end
return answer`)

	// The same for a load that has failed: we want to be told when somebody sets the key, as the loader's error is remembered until then.
	scriptReleaseFailed = newScript(luaLook + `
local answer = {}
for i, key in ipairs(KEYS) do
  answer[i] = look(key) == ARGV[i] and redis.call('DEL', key) or 0
end
call('EXISTS', unpack(KEYS))
return answer`)

	// KEYS: k, its stamp   ARGV: window, stamp, StampTTL in ms, value, ttl in ms.   Answer: 1, or what
	// untimely says. A second run, or one that this client has overtaken, finds the later operation's stamp and does nothing.
	// (SETRANGE of nothing changes nothing. It is there to be refused by a full server before anything is looked at: see
	// scriptReadOrLock.)
	scriptSet = newScript(luaStamps + luaPut + `
local now = clock()
local refusal = untimely(now, ARGV[1])
if refusal then return refusal end
call('SETRANGE', KEYS[2], 0, '')
local was = stampOf(KEYS[2])
if overtaken(was, ARGV[2]) then return 1 end
put(KEYS[1], ARGV[4], ARGV[5])
call('SET', KEYS[2], later(now, was, ARGV[2], math.floor(now / 1000) + ARGV[5]), 'PX', digits(math.max(ARGV[3], ARGV[5])))
return 1`)

	// KEYS: k…, their stamps…   ARGV: window, stamp, StampTTL in ms.   Answer: 1, or what untimely says.
	scriptDel = newScript(luaStamps + `
local now = clock()
local refusal = untimely(now, ARGV[1])
if refusal then return refusal end
local n = #KEYS / 2
for i = 1, n do
  local was = stampOf(KEYS[n+i])
  if not overtaken(was, ARGV[2]) then
    call('UNLINK', KEYS[i])
    call('SET', KEYS[n+i], later(now, was, ARGV[2], 0), 'PX', ARGV[3])
  end
end
return 1`)

	// Leaves the stamp of a Set or Del alone, for a slot that is moving: there Redis answers TRYAGAIN to a script
	// with two keys, unless both are on the same side. The write itself follows as if there were no stamps. In between the
	// stamp is newer than the value; should nothing follow, the operation has not been done, and its client knows.
	// KEYS: stamp   ARGV: window, stamp, StampTTL in ms, ttl of the value in ms or 0.   Answer: 1, what untimely
	// says, 2 if a later operation was there.
	scriptStamp = newScript(luaStamps + `
local now = clock()
local refusal = untimely(now, ARGV[1])
if refusal then return refusal end
call('SETRANGE', KEYS[1], 0, '')
local was, ttl = stampOf(KEYS[1]), tonumber(ARGV[4])
if overtaken(was, ARGV[2]) then return 2 end
local ends = ttl > 0 and math.floor(now / 1000) + ttl or 0
call('SET', KEYS[1], later(now, was, ARGV[2], ends), 'PX', digits(math.max(ARGV[3], ttl)))
return 1`)

	// Leaves stamps for what has been done to keys by other commands, see Update: a value that is there counts as written with it.
	// KEYS: k…, their stamps…   ARGV: window, stamp, StampTTL in ms, ms for what does not expire.   Answer: 1, or
	// what untimely says.
	scriptMark = newScript(luaStamps + `
local now = clock()
local refusal = untimely(now, ARGV[1])
if refusal then return refusal end
local n = #KEYS / 2
for i = 1, n do
  local was = stampOf(KEYS[n+i])
  if not overtaken(was, ARGV[2]) then
    local left, ends = call('PTTL', KEYS[i]), 0
    if left == -1 then left = tonumber(ARGV[4]) end
    if left > 0 then ends = math.floor(now / 1000) + left end
    call('SET', KEYS[n+i], later(now, was, ARGV[2], ends), 'PX', digits(math.max(ARGV[3], left)))
  end
end
return 1`)

	// The server's time as the scripts have it, which decides about windows and stamps: what stands in between may answer TIME itself. The
	// probe asks for it, and shows at the same time that scripts may be run. ARGV: says that it is a probe's.
	scriptTime = newScript(`return redis.call('TIME')`)

	// Stands in for a call that the server would not read, see longest.
	// KEYS: k   ARGV: the error.   Answer: that error.
	scriptWithheld = newScript(`return redis.error_reply(ARGV[1])`)

	// Stands in for scriptMark where a slot is moving and scriptStamp has done its work.
	scriptNothing = newScript(`return 1`)

	// The same where Options.DisableStamps is set.
	// KEYS: k   ARGV: window, value, ttl in ms.   Answer: 1, or what untimely says.
	scriptSetBare = newScript(luaLook + luaClock + luaPut + `
local refusal = untimely(clock(), ARGV[1])
if refusal then return refusal end
put(KEYS[1], ARGV[2], ARGV[3])
return 1`)

	// KEYS: k…   ARGV: window.   Answer: 1, or what untimely says.
	scriptDelBare = newScript(luaLook + luaClock + `
local refusal = untimely(clock(), ARGV[1])
if refusal then return refusal end
call('UNLINK', unpack(KEYS))
return 1`)

	// Replays records of the fallback store. The rule is told in docs/adr/0005 and, as a function, in internal/sim/merge.go,
	// whose names it keeps.
	// KEYS: k…, their stamps…   ARGV: window, StampTTL in ms, lock prefix, and for each key: set, del or fill; stamp; u, the
	// margin, in µs; value; its end in ms; 1: the record's clock may be off by more than u (so it is, too, if its time is yet to come).
	// Answer, for each key: 1 (applied), 2 (something newer is there), 3 (a set was turned into a delete), 4 (a fill is too old), or an
	// error; or what untimely says. A second run, now or after any other records, ends in the same state, but for records
	// with such a clock: these need the window.
	scriptReplay = newScript(luaStamps + luaPut + `
local keep, lock, now = tonumber(ARGV[2]), ARGV[3], clock()
local refusal = untimely(now, ARGV[1])
if refusal then return refusal end
local ms, n, answers = math.floor(now / 1000), #KEYS / 2, {}
local full = redis.pcall('SETRANGE', KEYS[n+1], 0, '') -- see scriptSet
full = type(full) == 'table' and full.err and full.err:find('OOM', 1, true) and full

local function replay(key, skey, op, mine, u, value, ends, unsure)
  local at, verdict = tonumber(mine:sub(1, 16)), 1
  if at > now + u then unsure = true end
  if op ~= 'del' and (ms >= ends or now > at + keep * 1000 - u) or op == 'fill' and unsure then
    if op == 'fill' then return 4 end
    op, verdict = 'del', 3 -- what it has replaced must not come back
  end
  if op ~= 'del' and full then return full end

  local c = stampOf(skey)
  local v = redis.pcall('GETEX', key)
  if type(v) == 'table' then v = redis.pcall('GET', key) end
  if type(v) == 'table' then v = '' end -- of another type: somebody's value
  if op == 'fill' then
    if c or v then return 2 end
    put(key, value, digits(math.max(ends - ms, 1)))
    return 1
  end
  if overtaken(c, mine) then return 2 end

  local cAt, cOther, cEnds
  if c then cAt, cOther, cEnds = tonumber(c:sub(1, 16)), tonumber(c:sub(45, 60)), tonumber(c:sub(61)) end
  local time, by, other, contested = at, mine:sub(17), 0, false
  if unsure then -- a delete that happens now
    if op == 'set' then op, verdict = 'del', 3 end
    time = math.max(now, c and cAt + 1 or 0)
  elseif c and c:sub(17, 32) == mine:sub(17, 32) then
    time = math.max(at, cAt)
    if cOther ~= 0 and cOther >= time - u then other, contested = cOther, true end
  elseif c and cAt > at + u then
    return 2
  elseif c and cAt >= at - u then
    contested = true
    if c:sub(1, 44) < mine then other = cAt
    else time, by, other = cAt, c:sub(17, 44), math.max(cOther, at) end
  end

  local wins, stays, left = op == 'set' and not contested, '0', keep
  local locked = v and v:sub(1, #lock) == lock
  if locked and not unsure and (tonumber(v:sub(-16)) or 0) > at + u then
    verdict = wins and 2 or verdict -- the load has read what this has written, or newer
  elseif wins and (not v or locked or c and ms < cEnds) then
    stays, left = digits(ends), math.max(keep, ends - ms)
    put(key, value, digits(math.max(ends - ms, 1)))
  else
    if op == 'set' then verdict = 3 end
    if v then call('UNLINK', key) end
  end
  call('SET', skey, padded(time) .. by .. padded(other) .. stays, 'PX', digits(left))
  return verdict
end

for i = 1, n do
  local a = 6 * i - 2
  answers[i] = replay(KEYS[i], KEYS[n+i], ARGV[a], ARGV[a+1], tonumber(ARGV[a+2]), ARGV[a+3], tonumber(ARGV[a+4]), ARGV[a+5] == '1')
end
return answers`)

	// The same where Options.DisableStamps is set: nobody can say what is newer, so a set is replayed as a delete.
	// KEYS: k…   ARGV: window, and for each key: set, del or fill.   Answer: as above.
	scriptReplayBare = newScript(luaLook + luaClock + `
local refusal = untimely(clock(), ARGV[1])
if refusal then return refusal end
local answers = {}
for i, key in ipairs(KEYS) do
  local op = ARGV[i+1]
  if op ~= 'fill' then call('UNLINK', key) end
  answers[i] = op == 'fill' and 2 or op == 'set' and 3 or 1
end
return answers`)

	// KEYS: k…   ARGV: window, ttl in ms, lock prefix…, absence.   Answer: 1, or what untimely says.
	// Only values get the ttl: a lock keeps its holder's, an absence its own.
	scriptTouch = newScript(luaClock + `
local refusal = untimely(clock(), ARGV[1])
if refusal then return refusal end
for _, key in ipairs(KEYS) do
  local head, lock = redis.call('GETRANGE', key, 0, 31), false
  for i = 3, #ARGV - 1 do
    lock = lock or string.sub(head, 1, #ARGV[i]) == ARGV[i]
  end
  if head ~= ARGV[#ARGV] and not lock then
    if tonumber(ARGV[2]) > ` + milliseconds(LongestTTL) + ` then redis.call('PERSIST', key) else redis.call('PEXPIRE', key, ARGV[2]) end
  end
end
return 1`)
)

const (
	maxBatchKeys  = 64      // keys per script call, so that others get their turn; see also scriptReadOrLock
	firstPiece    = 1024    // keys in a call's first piece, see runBatches
	maxPieceKeys  = 8192    // and in any
	maxBatchBytes = 1 << 20 // of values per script call, if it has more than one key
)

// stuck is a lock of somebody else that a leader waits for. A living holder of ours renews its lock, so one that is not renewed ends by itself,
// after the LockTTL of its client at most; but not where the server's clock was set back, or where another library has made it, which may
// give it the ttl of the value. So a lock is given up that has not been renewed for LockTTL, unless its client may have a longer one.
type stuck struct {
	marker string
	since  int64         // when it was first found, or last found to be renewed, in Client.now's time
	ttl    time.Duration // its PTTL then
}

const (
	renewalShows  = 100 * time.Millisecond // more than two looks at a PTTL differ by, beside the time in between
	longestOthers = time.Minute            // a LockTTL that another client may have, if it is longer than ours
)

// overdue notes that the lock was found, and reports whether it has had its time.
func (s *stuck) overdue(found finding, now int64, lockTTL time.Duration) bool {
	passed := time.Duration(now - s.since)
	switch drift := found.ttl - (s.ttl - passed); {
	case s.marker != found.stored, found.ttl >= 0 && (drift > renewalShows || drift < -renewalShows):
		*s = stuck{found.stored, now, found.ttl}
		return false
	case s.ttl > lockTTL && s.ttl <= longestOthers && !wire.PeerLock(found.stored):
		return passed >= max(lockTTL, s.ttl/2+renewalShows) // it would have been renewed twice
	}
	return passed >= lockTTL
}

// newMarker returns a marker for a load that begins now, on sh's clock; nobody has used it before.
func (c *Client) newMarker(sh *shard) string {
	var room [128]byte
	b := append(room[:0], c.tokenPrefix...)
	b = strconv.AppendUint(b, c.tokens.Add(1), 36)
	b = append(b, ':')
	now, _ := c.serverTime(sh)
	return string(appendDigits(b, now, stampTime))
}

// newTokenPrefix begins all tokens of a client; UUIDv7, so that a person can see when the client was made.
func newTokenPrefix() (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("aside: no randomness for the client's id: %w", err)
	}
	return wire.LockPrefix + id.String() + ":", nil
}

// milliseconds is d as Redis takes it: rounded up, so that what is asked to live at all does.
func milliseconds(d time.Duration) string {
	ms := int64(d / time.Millisecond)
	if d%time.Millisecond != 0 {
		ms++
	}
	return strconv.FormatInt(ms, 10)
}

// call is one run of a script on keys of one shard, and of one slot where that matters.
type call struct {
	script  *script
	keys    []string
	args    []string
	stamped bool // the keys' stamps are KEYS too, behind them

	reply rueidis.RedisMessage
	err   error
	moved bool // another node than the shard answered: its answer must not be kept in memory

	expects int64 // bytes of the answer, where they are known to be many

	withheld string // the error that is to be answered, where the server would not read the arguments, see longest

	found []finding // of a joint question, read from reply once for all its seats
	ours  []int64
}

// untimely reports whether the server has refused q for the time, see luaClock.
func (q *call) untimely() bool {
	n, err := q.reply.AsInt64()
	return q.err == nil && err == nil && n <= 0
}

// newCall makes a call for one key, in one piece of memory.
func newCall(s *script, key string, args ...string) *call {
	q := &struct {
		call
		key  [1]string
		args [4]string
	}{call: call{script: s}, key: [1]string{key}}
	q.call.keys = q.key[:]
	q.call.args = append(q.args[:0], args...)
	return &q.call
}

// run asks one question. It returns at the latest when ctx or RedisTimeout ends.
func (c *Client) run(ctx context.Context, sh *shard, q *call) {
	c.runAll(ctx, sh, q)
}

// runAll asks several questions of one shard in one round trip.
func (c *Client) runAll(ctx context.Context, sh *shard, calls ...*call) {
	c.runFor(ctx, sh, c.opt.RedisTimeout, calls...)
}

// runFor is runAll with another bound than RedisTimeout. Whatever the bound, what is on the way lengthens it, see traffic.go.
func (c *Client) runFor(ctx context.Context, sh *shard, patience time.Duration, calls ...*call) {
	fail := func(err error) {
		for _, q := range calls {
			q.err = err
		}
	}
	if !sh.asks() {
		fail(errNotAsked)
		return
	}
	asked, passed := c.now(), sh.traffic.passed.Load()
	bytes, expected := sizes(calls)
	guessed := sh.guess(calls)
	patience += sh.sends(bytes, expected, asked)
	defer sh.arrived(bytes, expected)
	sh.guessed.Add(guessed)
	defer sh.guessed.Add(-guessed)
	ctx, limited, end := c.ask(ctx, sh, patience)
	defer end()
	if err := sh.gate.enter(ctx); err != nil {
		fail(fmt.Errorf("%w: %w", errGateFull, reason.Of(err)))
		return
	}
	defer func() {
		if what := judge(calls[len(calls)-1].err, limited); what == timedOut || what == gaveUp {
			sh.gate.giveUp(asked)
			return
		}
		sh.gate.leave()
	}()
	if !sh.asks() { // was lost while we waited for our turn
		fail(errNotAsked)
		return
	}

	sh.longest.withhold(calls, asked)
	epoch := sh.epoch.Load()
	c.send(ctx, sh.client, calls, false)
	sh.longest.learn(calls, epoch, asked)
	var again, elsewhere []*call
	for _, q := range calls {
		switch {
		case isNoScript(q.err):
			again = append(again, q)
		case judge(q.err, limited) == moved:
			elsewhere = append(elsewhere, q)
		}
	}
	if len(again) > 0 {
		c.send(ctx, sh.client, again, true)
	}
	for _, q := range elsewhere {
		// The cluster client follows redirections. It is asked with the whole script: the other node may not know it.
		q.moved = true
		if reply, ok := replyOf(q.err); ok {
			if _, isAsk := reply.IsAsk(); !isAsk { // else it stays where it is, for the time being
				c.topologyMoved()
			}
		}
		if t := c.topo.Load(); t != nil {
			q.reply, q.err = t.redis.Do(ctx, q.command(t.redis.B(), true)).ToMessage()
		}
	}
	c.conclude(sh, calls, limited, asked, passed)
	sh.learn(calls, passed)
}

// sizes is about how many bytes calls take on their way, and back, as far as that is known.
func sizes(calls []*call) (bytes, expected int64) {
	for _, q := range calls {
		bytes += q.size()
		expected += q.expects
	}
	return bytes, expected
}

// size is about how many bytes q takes on its way.
func (q *call) size() (bytes int64) {
	for _, key := range q.keys {
		bytes += int64(len(key))
	}
	for _, arg := range q.args {
		bytes += int64(len(arg))
	}
	return bytes
}

// conclude draws the consequences of the answers for the shard and the statistics. passed is what had passed on the connection when
// the question was asked.
func (c *Client) conclude(sh *shard, calls []*call, limited bool, asked, passed int64) {
	var worst error
	for _, q := range calls {
		switch {
		case q.moved: // says nothing of this node
		case q.err != nil:
			worst = q.err
		default:
			sh.failing.Store(0)
		}
	}
	if worst == nil {
		if len(calls) > 0 {
			sh.gate.settled(asked)
		}
		return
	}
	c.counts.redisErrors.Add(1)
	took := c.now() - asked
	c.observe(Event{Kind: EventRedisError, Key: sh.addr, Duration: time.Duration(took), Err: worst})
	switch what := judge(worst, limited); {
	case (what == timedOut || what == gaveUp) && sh.flows(asked, passed, c.now(), c.opt.RedisTimeout):
	case what == timedOut:
		c.failed(sh, worst, callersTimeout)
	case what == gaveUp: // a deadline shorter than RedisTimeout; silence all the same, if it was long enough to say something
		if errors.Is(worst, context.DeadlineExceeded) && took >= int64(c.opt.RedisTimeout)*2/5 {
			c.failed(sh, worst, callersTimeout)
		}
	case what == away:
		_, reply := rueidis.IsRedisErr(worst)
		if reply || isDial(worst) || errors.Is(worst, rueidis.ErrClosing) {
			c.failed(sh, worst, decisive)
		} else {
			c.failed(sh, worst, brokenOnly)
		}
	}
}

// questionContext bounds a question. limited says that the bound comes before the caller's own deadline.
func boundedContext(ctx context.Context, patience time.Duration) (_ context.Context, limited bool, _ context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= patience {
		return ctx, false, func() {}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	return ctx, true, cancel
}

func (c *Client) send(ctx context.Context, to rueidis.Client, calls []*call, whole bool) {
	if len(calls) == 1 {
		q := calls[0]
		q.reply, q.err = to.Do(ctx, q.command(to.B(), whole)).ToMessage()
		return
	}
	commands := make([]rueidis.Completed, len(calls))
	for i, q := range calls {
		commands[i] = q.command(to.B(), whole)
	}
	for i, result := range to.DoMulti(ctx, commands...) {
		calls[i].reply, calls[i].err = result.ToMessage()
	}
}

func (q *call) command(b rueidis.Builder, whole bool) rueidis.Completed {
	if q.withheld != "" {
		return b.Eval().Script(scriptWithheld.text).Numkeys(1).Key(q.keys[0]).Arg(q.withheld).Build()
	}
	keys := q.keys
	if q.stamped {
		keys = slices.Grow(slices.Clone(keys), len(keys))
		for _, key := range q.keys {
			keys = append(keys, stampKey(key))
		}
	}
	if whole {
		return b.Eval().Script(q.script.text).Numkeys(int64(len(keys))).Key(keys...).Arg(q.args...).Build()
	}
	return b.Evalsha().Sha1(q.script.sha).Numkeys(int64(len(keys))).Key(keys...).Arg(q.args...).Build()
}

func isNoScript(err error) bool {
	reply, ok := rueidis.IsRedisErr(err)
	return ok && reply.IsNoScript()
}

// batch is one script call for some of a list's keys.
type batch struct {
	call
	shard    *shard
	of       []int // where its keys stand in the list
	head     int   // how many args are for all keys; the others are as many for each
	notAfter int64 // of a write: when the server must not do it any more, in µs of its clock
}

// batches splits n keys into calls: by shard, in a cluster by slot, and so that none holds up the server for long. head
// is given to each call; args appends what each key needs, always as many.
func (c *Client) batches(s *script, head []string, n int, key func(i int) (string, *shard), args func(to []string, i int) []string) []*batch {
	return c.batchesOf(s, head, n, key, args, nil)
}

// batchesOf is batches for answers whose bytes are known.
func (c *Client) batchesOf(s *script, head []string, n int, key func(i int) (string, *shard), args func(to []string, i int) []string, answer func(i int) int64) []*batch {
	type place struct {
		shard *shard
		slot  uint16
	}
	type filling struct {
		*batch
		bytes int
	}
	var all []*batch
	open := make(map[place]*filling, 1)
	var more []string
	for i := range n {
		k, sh := key(i)
		at := place{shard: sh}
		if sh == nil || sh.addr != "" {
			at.slot = slot.Of(k)
		}
		bytes := len(k)
		if args != nil {
			more = args(more[:0], i)
			for _, arg := range more {
				bytes += len(arg)
			}
		}
		expects := int64(0)
		if answer != nil {
			expects = answer(i)
			bytes += int(expects)
		}
		f := open[at]
		if f == nil || len(f.keys) == maxBatchKeys || sh != nil && sh.spread.Load() || f.bytes+bytes > maxBatchBytes {
			f = &filling{batch: &batch{call: call{script: s}, shard: sh, head: len(head)}}
			room := 1
			if at.slot == 0 { // else there may be many batches of few keys
				room = min(n-i, maxBatchKeys)
			}
			f.keys, f.of = make([]string, 0, room), make([]int, 0, room)
			f.args = append(make([]string, 0, len(head)+room*len(more)), head...)
			open[at] = f
			all = append(all, f.batch)
		}
		f.keys = append(f.keys, k)
		f.args = append(f.args, more...)
		f.of = append(f.of, i)
		f.bytes += bytes
		f.expects += expects
	}
	return all
}

// pieces says how runBatches goes about it.
type pieces struct {
	first  int                               // keys in the first piece; 0: firstPiece
	before func(sh *shard, batches []*batch) // called for the batches of each piece just before they are sent; or nil
	insist bool                              // what is left goes at once, and all the same, when the shard has not answered, with Close, and
	until  int64                             // from then on, in Client.now's time
}

// runBatches asks every shard, all at the same time, and hands each answer to use, if not nil, as it comes: what
// one shard says must not wait for another that hangs. use is called by several goroutines, for different batches.
//
// A shard is asked in pieces, so that each has a RedisTimeout of its own and the questions of others get in between. The next one has twice as
// many keys if that took little beside the round trip, and half as many if it took long. When it does not answer at all it is not asked for the rest.
func (c *Client) runBatches(ctx context.Context, all []*batch, pieces *pieces, use func(*batch)) {
	byShard := make(map[*shard][]*batch, 1)
	for _, b := range all {
		byShard[b.shard] = append(byShard[b.shard], b)
	}
	ask := func(sh *shard, batches []*batch) {
		var failed error
		for room := cmp.Or(pieces.first, firstPiece); len(batches) > 0; {
			if pieces.insist && (c.now() >= pieces.until || failed != nil || c.closing.Err() != nil) {
				room = math.MaxInt
			}
			calls, keys, bytes := make([]*call, 0, len(batches)), 0, int64(0)
			for _, b := range batches {
				keys += len(b.keys)
				bytes += b.size() + b.expects
				if (keys > room || bytes > mostPiece) && len(calls) > 0 {
					break
				}
				calls = append(calls, &b.call)
			}
			began := c.now()
			switch {
			case failed != nil && !pieces.insist:
				for _, q := range calls {
					q.err = fmt.Errorf("%w: %w", errLeftOut, reason.Of(failed))
				}
			default:
				c.inTurn(ctx, sh, calls, func() {
					began = c.now()
					if pieces.before != nil {
						pieces.before(sh, batches[:len(calls)])
					}
					c.runAll(ctx, sh, calls...)
				})
			}
			switch took := time.Duration(c.now()-began) - sh.roundTrip(); {
			case took < c.opt.RedisTimeout/8:
				room = min(2*room, maxPieceKeys)
			case took > c.opt.RedisTimeout/4:
				room = max(room/2, maxBatchKeys)
			}
			if of := sh.perKey(); of > 0 {
				room = max(min(room, int(mostPiece/of)), maxBatchKeys)
			}
			for _, b := range batches[:len(calls)] {
				if _, reply := rueidis.IsRedisErr(b.err); !reply {
					failed = cmp.Or(failed, b.err)
				}
				if use == nil {
					continue
				}
				if len(b.keys) > 1 && isTryAgain(b.err) {
					c.runSingly(ctx, b, use)
				} else {
					use(b)
				}
			}
			batches = batches[len(calls):]
		}
	}
	var others sync.WaitGroup
	left := len(byShard)
	for sh, batches := range byShard {
		if left--; left == 0 {
			ask(sh, batches) // the last one here: a batch for one shard needs no goroutine
			break
		}
		others.Go(func() { ask(sh, batches) })
	}
	others.Wait()
}

// isTryAgain reports whether a call was refused because some of its keys have moved already, and others have not.
func isTryAgain(err error) bool {
	reply, ok := rueidis.IsRedisErr(err)
	return ok && reply.IsTryAgain()
}

// runSingly asks for each key of b by itself.
func (c *Client) runSingly(ctx context.Context, b *batch, use func(*batch)) {
	each := (len(b.args) - b.head) / len(b.keys)
	for n, key := range b.keys {
		at := b.head + n*each
		one := &batch{shard: b.shard, of: b.of[n : n+1], head: b.head, call: call{
			script: b.script, keys: []string{key}, args: append(slices.Clone(b.args[:b.head]), b.args[at:at+each]...),
		}}
		c.run(ctx, b.shard, &one.call)
		use(one)
	}
}

// overLocks runs a script over those items that hold a lock, and reports for each, as its shard answers and from several
// goroutines, whether it still was ours. It is bounded by RedisTimeout alone: the caller whose load it was may have gone.
// until, if not 0, is when what is left goes at once, whatever others have to ask; till then it goes in small pieces.
func (c *Client) overLocks(one, many *script, head []string, items []*loadItem, until int64, args func(to []string, item *loadItem) []string, answer func(moved bool, item *loadItem, ours bool, err error)) {
	held := items
	if bare := func(item *loadItem) bool { return item.marker == "" }; slices.ContainsFunc(items, bare) {
		held = slices.DeleteFunc(slices.Clone(items), bare)
	}
	if len(held) == 1 { // a plain Get gives back its lock
		moved, ours, err := c.overLock(one, held[0], args(head, held[0]))
		if answer != nil {
			answer(moved, held[0], ours, err)
		}
		return
	}
	how := &pieces{insist: true}
	if until > 0 {
		how.first, how.until = maxBatchKeys, until
	} else {
		how.until = never
	}
	all := c.batches(many, head, len(held), func(i int) (string, *shard) { return held[i].f.key, held[i].shard },
		func(to []string, i int) []string { return args(to, held[i]) })
	c.runBatches(context.Background(), all, how, func(b *batch) {
		if answer == nil {
			return
		}
		ours, err := b.flags()
		for n, i := range b.of {
			answer(b.moved, held[i], err == nil && ours[n] == 1, err)
		}
	})
}

// overLock is overLocks for one.
func (c *Client) overLock(s *script, item *loadItem, args []string) (moved, ours bool, err error) {
	q := newCall(s, item.f.key, args...)
	c.inTurn(context.Background(), item.shard, []*call{q}, func() { c.run(context.Background(), item.shard, q) })
	flags, err := q.flags()
	return q.moved, err == nil && flags[0] == 1, err
}

// flags reads an answer of one number per key.
func (q *call) flags() ([]int64, error) {
	if q.err != nil {
		return nil, q.err
	}
	flags, err := q.reply.AsIntSlice()
	if err == nil && len(flags) != len(q.keys) {
		err = fmt.Errorf("aside: a script answered %d numbers for %d keys", len(flags), len(q.keys))
	}
	return flags, err
}

// finding is what a key was found to hold.
type finding struct {
	content wire.Content
	value   string        // for wire.Value
	stored  string        // the bytes, for wire.Unreadable; the marker, for wire.Lock
	mine    bool          // for wire.Lock: we have just set it
	ttl     time.Duration // < 0: does not expire
	large   int64         // bytes of a value that is too large to be answered among others: to be asked for in turn
	err     error         // the server's, for this key
}

// findings reads an answer of a value and its ttl per key.
func (q *call) findings(marker string) ([]finding, error) {
	if q.err != nil {
		return nil, q.err
	}
	answer, err := q.reply.ToArray()
	if err != nil {
		return nil, err
	}
	if len(answer) != 2*len(q.keys) {
		return nil, fmt.Errorf("aside: a script answered %d elements for %d keys", len(answer), len(q.keys))
	}
	found := make([]finding, len(q.keys))
	for i := range found {
		found[i] = newFinding(answer[2*i], answer[2*i+1], marker)
	}
	return found, nil
}

// finding reads the answer for a single key.
func (q *call) finding(marker string) (finding, error) {
	if q.err != nil {
		return finding{}, q.err
	}
	answer, err := q.reply.ToArray()
	if err != nil {
		return finding{}, err
	}
	if len(answer) != 2 {
		return finding{}, fmt.Errorf("aside: a script answered %d elements for one key", len(answer))
	}
	f := newFinding(answer[0], answer[1], marker)
	return f, f.err
}

func newFinding(v, ttl rueidis.RedisMessage, marker string) (f finding) {
	if v.IsNil() {
		return finding{}
	}
	if said, err := v.AsInt64(); v.IsInt64() && said == 2 && err == nil {
		f.large, f.err = ttl.AsInt64()
		return f
	}
	if v.IsInt64() {
		return finding{content: wire.Lock, stored: marker, mine: true}
	}
	if f.stored, f.err = v.ToString(); f.err != nil {
		return f
	}
	var ms int64
	if ms, f.err = ttl.AsInt64(); f.err != nil {
		return f
	}
	f.ttl = time.Duration(ms) * time.Millisecond
	f.value, f.content = wire.Unpack(f.stored)
	f.mine = f.content == wire.Lock && f.stored == marker // the first run of a question that was sent twice
	return f
}

// fingerprint names bytes that could not be read, for scriptReplaceOrLock.
func fingerprint(stored string) string {
	sum := sums.SHA1(stored)
	return hex.EncodeToString(sum[:])
}

// disown releases, in the background, what an unanswered read-or-lock may have locked.
func (c *Client) disown(sh *shard, keys []string, marker string) {
	c.inBackground(func() { // ends within RedisTimeout
		args := slices.Repeat([]string{marker}, len(keys))
		c.run(context.Background(), sh, &call{script: scriptRelease, keys: keys, args: args})
		for _, key := range keys {
			c.near.wake(key)
		}
	})
}

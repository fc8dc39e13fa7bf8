-- include: stamps put full
-- Replays records of the fallback store. The rule is told in docs/adr/0005 and, as a function, in
-- internal/sim/merge.go, whose names this script keeps.
--
-- KEYS:       k…, and the bucket of each
-- ARGV:       window, StampTTL in ms, lock prefix, and for each key: what is to be done, and the
--             value. At last, the number of k. What is to be done is packed: s, d or f for set, del
--             or fill (S, D, F: the record's clock may be off by more than u, as it is, too, if its
--             time is yet to come); stamp; u, the margin, in µs (7 bytes); the value's end in ms
--             (6 bytes)
-- Answer:     for each key: 1 applied; 2 something newer is there, and what a load left is gone
--             all the same; 3 a set was turned into a delete; 4 a fill is too old; or an error. Or 1: all
--             are applied. Or what untimely answers (lib/clock.lua)
-- Second run: now or after any other records, ends in the same state. Records whose clock may be
--             off are the exception: these need the window
--
-- Where there is a stamp that we do not know, of another version perhaps, nothing can be ordered:
-- the key is emptied.

local keep, lock, now = tonumber(ARGV[2]), ARGV[3], clock()
local refusal = untimely(now, ARGV[1])
if refusal then return refusal end
local ms, answers, full = floor(now / 1000), {}, whenFull()
local newest = now - keep * 1000

-- text: a time in ms as commands take it. What is a number Redis would write out at length
local function text(ms) return string.format('%d', ms) end

-- free: the key that was looked at before this one held nothing, so this one may hold nothing, too:
-- then one command writes, and finds that out
local free = true
local function create(key, value, ttl)
  if ttl > LONGEST_TTL then free = call('SET', key, value, 'NX')
  else free = call('SET', key, value, 'PX', text(ttl), 'NX') end
  return free
end
local function held(key)
  local v = redis.pcall('GET', key)
  free = not v
  -- of another type: somebody's value
  if type(v) == 'table' then v = '' end
  return v
end

-- replay answers what has become of the record of the ith key, and, if that leaves one, its stamp and
-- the end of its value. c: the stamp that was there
local function replay(i, c, unknown)
  local value, op, at, client, number, u, ends = ARGV[2*i+3], unstruct('>BI7c8I5I7I6', ARGV[2*i+2])
  local key, verdict, set, fill, unsure = KEYS[i], 1, op == 115, op == 102, op < 97 or at > now + u
  if op < 97 then set, fill = op == 83, op == 70 end
  if (set or fill) and (ms >= ends or at < newest + u) or fill and unsure then
    if fill then return 4 end
    -- what it has replaced must not come back
    set, verdict = false, 3
  end
  if full and (set or fill) then return full end

  local cAt, cClient, cNumber, cEnds, cOther, _, cMargin
  if c then cAt, cClient, cNumber, cEnds, cOther, _, cMargin = parts(c) end
  if fill then
    if unknown or c and (cAt >= newest or cEnds > ms) then return 2 end
    return create(key, value, ends - ms) and 1 or 2
  end
  local own = c and cClient == client
  if own and cNumber >= number then return 2 end

  if at > now then at = now end
  -- within apart nobody knows which was later
  local time, other, contested, top, apart, margin = at, 0, unknown, number, u, u
  if c and cMargin > u then apart = cMargin end
  if unsure then
    -- a delete that happens now
    if set then set, verdict = false, 3 end
    time = max(now, c and cAt + 1 or 0)
    margin = 2 * (time - now)
  elseif own then
    time, margin = max(at, cAt), apart
    if cOther ~= 0 and cOther >= time - apart then other, contested = cOther, true end
  elseif c and cAt > at + apart then
    -- what is there is no Set's. An Expire leaves what may be older than this
    if cEnds <= ms then
      local v = held(key)
      if v and v:sub(1, #lock) ~= lock then call('UNLINK', key) end
    end
    return 2
  elseif c and cAt >= at - apart then
    contested, margin = true, apart
    if cAt < at or cAt == at and cClient < client then other = cAt
    else time, client, top, other = cAt, cClient, cNumber, max(cOther, at) end
  end

  local wins, stays = set and not contested, 0
  if wins and free and create(key, value, ends - ms) then
    return verdict, stored(time, client, top, ends, other, false, margin), ends
  end
  local v = held(key)
  local locked = v and v:sub(1, #lock) == lock
  if locked and not unsure and (tonumber(v:sub(-16)) or 0) > at + u then
    -- the load has read what this has written, or newer
    verdict = wins and 2 or verdict
  elseif wins and (not v or locked or c and ms < cEnds) then
    stays = ends
    put(key, value, ends - ms)
  else
    if set then verdict = 3 end
    if v then call('UNLINK', key) end
  end
  if full then forget(i) end
  return verdict, stored(time, client, top, stays, other, false, margin), stays
end

-- stampsIn is stampIn for the first n of fields: lists of stamps and, if there is any, of what is
-- unknown; the head stands between
local function stampsIn(bucket, fields, n)
  local unknown
  fields[n+1] = ''
  local got = redis.pcall('HMGET', bucket, unpack(fields, 1, n + 1))
  if got.err then
    noHash(bucket, got.err)
    unknown = {}
    for i = 1, n do unknown[i] = true end
    return {}, false, unknown
  end
  for i = 1, n do
    local s = got[i]
    if s and not isStamp(s) then
      unknown = unknown or {}
      got[i], unknown[i] = false, true
    end
  end
  return got, got[n+1], unknown
end

-- Keys that follow each other and share a bucket have their stamps read together, and left together:
-- also where one of them ends the script, as what it has done for the others is done.
local fields, stamps, left, last, applied = {}, {}, 0, 0, true
local function each(from, past, were, unknown)
  for i = from, past - 1 do
    local n = i - from + 1
    local verdict, stamp, stays = replay(i, were[n], unknown and unknown[n])
    answers[i] = verdict
    if verdict ~= 1 then applied = false end
    if stamp then
      stamps[left+1], stamps[left+2], left = fields[n], stamp, left + 2
      if stays > last then last = stays end
    end
  end
end
local from = 1
while from <= count do
  local bucket, past = KEYS[count+from], from
  while KEYS[count+past] == bucket do
    fields[past-from+1] = fieldOf(KEYS[past])
    past = past + 1
  end
  local were, head, unknown = stampsIn(bucket, fields, past - from)
  left, last = 0, 0
  local whole, why = pcall(each, from, past, were, unknown)
  if left > 0 then placeIn(bucket, head, ms, last, keep, unpack(stamps, 1, left)) end
  if not whole then error(why, 0) end
  from = past
end
return applied and 1 or answers

-- include: look clock
-- What scripts do with stamps; internal/stamp has the layout, and only this file knows it in Lua. i
-- is the place of a data key in KEYS: data keys come first, then the bucket of each. A stamp that a
-- client proposes is called mine. Times are numbers: 2^53 µs end in the year 2255.
--
-- The reads are not tracked, as the client sends CLIENT CACHING NO ahead of these scripts.
--
-- A sweep removes the stamps of a bucket that nobody needs any more. It is due four times in a
-- StampTTL, if somebody writes then, and goes in steps where there are many; so it visits a stamp a
-- few times in its life, and a write pays little for it.
--
-- count:     how many data keys there are. Their number is the last ARGV of each script with stamps
-- whenFull:  the error by which a full server refuses writes, or nil. A script that has begun with a
--            write may go on to write, so one that wants to be refused asks before it writes
-- fieldOf:   the name of a data key's field, which is never that of the head
-- stampIn:   the stamp that a bucket has for a field, or nil; the bucket's head; and whether there
--            is something that is no stamp we know. What is no hash is deleted
-- noHash:    deals with a bucket that HMGET has not read: it deletes what is no hash
-- stampsIn:  stampIn for the first n of fields: lists of stamps and, if there is any, of what is
--            unknown; the head stands between
-- stampOf:   stampIn, for the ith key. leave for it follows, if it does, before the next stampOf
-- proposed:  time, client and number of a proposed stamp
-- parts:     time, client, number, end (ms; 0: none) and other of a stamp, and whether it says only
--            that the key was changed
-- overtaken: the stamp that is there is of this operation, or of a later one of the same client
-- stored:    a stamp as buckets have it, from its parts; the last may be left out
-- sweep:     takes a step of a sweep. It answers where the next begins, 0 if there is none, and, if
--            this one has seen all stamps, until when they are needed
-- placeIn:   puts stored stamps into a bucket with that head; they come last, each behind its field.
--            ends: until when there is a value that needs one (ms; or 0). keep: how long they must
--            live at least, in ms
-- forget:    removes the stamp of the ith key
-- leaveIn:   leaves a stamp that is later than the one that was there. ends: until when a value of
--            the key is this writer's (ms; 0: there is none). keep: as for placeIn. changed: it says
--            only that the key was changed
-- leave:     leaveIn, for the ith key

local count, heads = tonumber(ARGV[#ARGV]), {}
local byte, floor, max, min, unstruct, struct_ = string.byte, math.floor, math.max, math.min, struct.unpack, struct.pack
local layouts = {
  [16] = '>BI7c8I5', [17] = '>BI7c8I5I3', [18] = '>BI7c8I5I6',
  [20] = '>BI7c8I5I7', [21] = '>BI7c8I5I3I7', [22] = '>BI7c8I5I6I7',
}
local sizes = {[16] = 21, [17] = 24, [18] = 27, [20] = 28, [21] = 31, [22] = 34}
for kind = 16, 22 do layouts[kind+8], sizes[kind+8] = layouts[kind], sizes[kind] end
local headLayouts, headSizes = {[16] = '>BI6I6I6', [17] = '>BI6I6I6I8'}, {[16] = 19, [17] = 27}
local function whenFull()
  local said = redis.pcall('SETRANGE', KEYS[1], 0, '')
  if type(said) == 'table' and said.err and said.err:find('OOM', 1, true) then return said end
end
local function fieldOf(key)
  if (byte(key) or 0) == 0 then return '\0' .. key end
  return key
end
local function noHash(bucket, err)
  -- not permitted, perhaps: then it is not the bucket's fault
  if not err:find('WRONGTYPE', 1, true) then call('HMGET', bucket, '') end
  call('DEL', bucket)
end
local function stampIn(bucket, field)
  local got = redis.pcall('HMGET', bucket, field, '')
  if got.err then
    noHash(bucket, got.err)
    return nil, false, true
  end
  local s = got[1]
  if s and sizes[byte(s)] ~= #s then return nil, got[2], true end
  return s or nil, got[2], false
end
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
    if s and sizes[byte(s)] ~= #s then
      unknown = unknown or {}
      got[i], unknown[i] = false, true
    end
  end
  return got, got[n+1], unknown
end
local function stampOf(i)
  local s, head, unknown = stampIn(KEYS[count+i], fieldOf(KEYS[i]))
  heads[i] = head
  return s, unknown
end
local function proposed(mine) return unstruct('>I7c8I5', mine) end
local function parts(s)
  local kind, t, client, number, a, b = unstruct(layouts[byte(s)], s)
  local changed, other = kind >= 24, kind % 8 >= 4
  if kind % 4 == 0 then return t, client, number, 0, other and a or 0, changed end
  return t, client, number, floor(t / 1000) + a, other and b or 0, changed
end
local function overtaken(was, mine)
  return was and was:sub(9, 16) == mine:sub(8, 15) and unstruct('>I5', was, 17) >= unstruct('>I5', mine, 16)
end
local function stored(t, client, number, ends, other, changed)
  local left, kind = ends - floor(t / 1000), changed and 24 or 16
  if ends > 0 and left > 0 then kind = kind + (left < 16777216 and 1 or 2) end
  if other > 0 then kind = kind + 4 end
  if kind % 4 == 0 then return struct_(layouts[kind], kind, t, client, number, other) end
  return struct_(layouts[kind], kind, t, client, number, left, other)
end
local function sweep(bucket, from, ms, longest)
  local step, dead, last = call('HSCAN', bucket, from, 'COUNT', 64), {}, 0
  local all, goes = step[2], tonumber(step[1])
  for i = 1, #all, 2 do
    local s = all[i+1]
    if all[i] ~= '' and sizes[byte(s)] == #s then
      local t, _, _, ends = parts(s)
      local needed = max(floor(t / 1000) + longest, ends)
      if needed < ms then dead[#dead+1] = all[i] end
      last = max(last, needed)
    end
  end
  -- a hash in one piece is seen at once, however long; Lua's stack is not
  for i = 1, #dead, 1000 do call('HDEL', bucket, unpack(dead, i, min(i + 999, #dead))) end
  return goes, from == 0 and goes == 0 and last
end
local function placeIn(bucket, head, ms, ends, keep, ...)
  local kind, lives, due, longest, from, known = 16, 0, 0, keep, 0, head and headSizes[byte(head)] == #head
  if known then kind, lives, due, longest, from = unstruct(headLayouts[byte(head)], head)
  else lives = ms + max(call('PTTL', bucket), 0) end
  if kind == 16 then from = 0 end
  local must = max(ms + keep, ends)
  if must <= lives and keep <= longest and ms < due then return call('HSET', bucket, ...) end
  longest = max(longest, keep)
  if ms >= due then
    local needed = lives
    if known then from, needed = sweep(bucket, from, ms, longest) end
    if from == 0 then due = ms + floor(longest / 4) end
    lives = needed or lives
  end
  lives = max(lives, must + floor(longest / 2))
  kind = from > 0 and 17 or 16
  call('HSET', bucket, '', struct_(headLayouts[kind], kind, lives, due, longest, from), ...)
  return call('PEXPIREAT', bucket, lives)
end
local function forget(i) call('HDEL', KEYS[count+i], fieldOf(KEYS[i])) end
local function leaveIn(bucket, field, head, now, was, mine, ends, keep, changed)
  local t, client, number = proposed(mine)
  t = max(now, t)
  if was then t = max(t, unstruct('>I7', was, 2) + 1) end
  return placeIn(bucket, head, floor(now / 1000), ends, tonumber(keep), field, stored(t, client, number, ends, 0, changed))
end
local function leave(i, now, was, mine, ends, keep, changed)
  return leaveIn(KEYS[count+i], fieldOf(KEYS[i]), heads[i], now, was, mine, ends, keep, changed)
end

-- include: clock
-- What scripts do with stamps; internal/stamp has the layout, and only this file knows it in Lua. i
-- is the place of a data key in KEYS: data keys come first, then the bucket of each. A stamp that a
-- client proposes is called mine: its client and number are left here, and its time is when a script
-- runs, but for what is replayed. Times are numbers: 2^53 µs end in the year 2255.
--
-- The reads are not tracked, as the client sends CLIENT CACHING NO ahead of these scripts.
--
-- A sweep removes the stamps of a bucket that nobody needs any more. It is due four times in a
-- StampTTL, if somebody writes then, and goes in steps where there are many; so it visits a stamp a
-- few times in its life, and a write pays little for it.
--
-- Set and Del are most of what runs here. So they do not read the stamp that is there, which they replace
-- whatever it is; they make no closure or table for a key, and put the stamp together from parts. A call
-- pays for each function that is defined, used or not; so what only the replay uses stands there.
--
-- count:    how many data keys there are. Their number is the last ARGV of each script with stamps
-- fieldOf:  the name of a data key's field, which is never that of the head
-- isStamp:  whether a field's value has a kind that we know, and its length
-- noHash:   deals with a bucket that HMGET has not read: it deletes what is no hash
-- stampIn:  the stamp that a bucket has for a field, or nil; the bucket's head; and whether there is
--           something that is no stamp we know. What is no hash is deleted
-- stampOf:  stampIn, for the ith key
-- parts:    time, client, number, end (ms; 0: none) and other of a stamp, whether it says only
--           that the key was changed, and its margin (0: what is assumed of all)
-- later:    time, client and number of what mine leaves now. The time is later than that of the stamp
--           that was there. Nil if that one is of this operation, or of a later one of the same client
-- written:  the bucket's head, and later; but what is there is looked at only if mine may have been done
--           already (again), else there is the time alone
-- stored:   a stamp as buckets have it, from its parts
-- around:   what stands before and behind client and number in a stamp whose time is now, and whose
--           value has left ms to live (0: there is none). See identity
-- identity: client and number of a proposed stamp, as they stand in a stored one
-- sweep:    takes a step of a sweep. It answers where the next begins, 0 if there is none, and, if
--           this one has seen all stamps, until when they are needed
-- placeIn:  puts stored stamps into a bucket with that head; they come last, each behind its field.
--           ends: until when there is a value that needs one (ms; or 0). keep: how long they must
--           live at least, in ms
-- forget:   removes the stamp of the ith key

local count = tonumber(ARGV[#ARGV])
local byte, sub, floor, max, unstruct, struct_ = string.byte, string.sub, math.floor, math.max, struct.unpack, struct.pack
local function fieldOf(key)
  if (byte(key) or 0) == 0 then return '\0' .. key end
  return key
end
local function isStamp(s)
  local kind, size = byte(s) or -1, #s
  if kind >= 48 then kind, size = kind - 32, size - 5 end
  return size > 0 and byte('\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\21\24\27\0\28\31\34\0\21\24\27\0\28\31\34', kind + 1) == size
end
local function noHash(bucket, err)
  -- not permitted, perhaps: then it is not the bucket's fault
  if not err:find('WRONGTYPE', 1, true) then call('HMGET', bucket, '') end
  call('DEL', bucket)
end
local function stampIn(bucket, field)
  local got = redis.pcall('HMGET', bucket, field, '')
  local s = got[1]
  if s then
    if isStamp(s) then return s, got[2] end
    return nil, got[2], true
  end
  if not got.err then return nil, got[2] end
  noHash(bucket, got.err)
  return nil, false, true
end
local function stampOf(i) return stampIn(KEYS[count+i], fieldOf(KEYS[i])) end
local function parts(s)
  local kind, t, client, number = unstruct('>BI7c8I5', s)
  local form, size, ends, other, margin = kind % 8, #s, 0, 0, 0
  if kind >= 48 then
    size = size - 5
    margin = unstruct('>I5', s, size + 1)
  end
  if form % 4 > 0 then ends = floor(t / 1000) + unstruct(form % 4 == 1 and '>I3' or '>I6', s, 22) end
  if form >= 4 then other = unstruct('>I7', s, size - 6) end
  return t, client, number, ends, other, kind % 16 >= 8, margin
end
local function later(now, was, mine)
  local t, client, number = now, unstruct('>c8I5', mine, 8)
  if was then
    local before, by, last = unstruct('>I7c8I5', was, 2)
    if by == client and last >= number then return end
    if before >= t then t = before + 1 end
  end
  return t, client, number
end
local function written(bucket, field, now, mine, again)
  if again then
    local was, head = stampIn(bucket, field)
    return head, later(now, was, mine)
  end
  local got = redis.pcall('HMGET', bucket, '')
  if got.err then noHash(bucket, got.err) end
  return got[1], now
end
local function stored(t, client, number, ends, other, changed, margin)
  local left, kind, layout, tail = ends - floor(t / 1000), changed and 24 or 16, '>BI7c8I5', ''
  if margin > LEAST_MARGIN then kind, tail = kind + 32, struct_('>I5', math.min(margin, 2^40 - 1)) end
  if ends > 0 and left > 0 then
    if left < 16777216 then kind, layout = kind + 1, '>BI7c8I5I3' else kind, layout = kind + 2, '>BI7c8I5I6' end
  else left = nil end
  if other > 0 then
    kind, layout = kind + 4, layout .. 'I7'
    if not left then return struct_(layout, kind, t, client, number, other) .. tail end
  end
  return struct_(layout, kind, t, client, number, left, other) .. tail
end
local function around(now, left)
  if left == 0 then return struct_('>BI7', 16, now), '' end
  if left < 16777216 then return struct_('>BI7', 17, now), struct_('>I3', left) end
  return struct_('>BI7', 18, now), struct_('>I6', left)
end
local function identity(mine) return sub(mine, 8, 20) end
local function sweep(bucket, from, ms, longest)
  local step, dead, last = call('HSCAN', bucket, from, 'COUNT', 64), {}, 0
  local all, goes = step[2], tonumber(step[1])
  for i = 1, #all, 2 do
    local s = all[i+1]
    if all[i] ~= '' and isStamp(s) then
      local t, _, _, ends = parts(s)
      local needed = max(floor(t / 1000) + longest, ends)
      if needed < ms then dead[#dead+1] = all[i] end
      last = max(last, needed)
    end
  end
  -- a hash in one piece is seen at once, however long; Lua's stack is not
  for i = 1, #dead, 1000 do call('HDEL', bucket, unpack(dead, i, math.min(i + 999, #dead))) end
  -- some ms more: that a key's value ends then may be found again a millisecond later
  return goes, from == 0 and goes == 0 and last + 10
end
local function placeIn(bucket, head, ms, ends, keep, ...)
  local lives, due, longest, from, kind, known, must = 0, 0, keep, 0, nil, false, ms + keep
  if must < ends then must = ends end
  if head and (#head == 19 and byte(head) == 16 or #head == 27 and byte(head) == 17) then
    known, kind, lives, due, longest = true, unstruct('>BI6I6I6', head)
    if must <= lives and keep <= longest and ms < due then return call('HSET', bucket, ...) end
    if kind == 17 then from = unstruct('>I8', head, 20) end
  else lives = ms + max(call('PTTL', bucket), 0) end
  longest = max(longest, keep)
  if ms >= due then
    local needed = lives
    if known then from, needed = sweep(bucket, from, ms, longest) end
    if from == 0 then due = ms + floor(longest / 4) end
    lives = needed or lives
  end
  lives = max(lives, must + floor(longest / 2))
  if from > 0 then head = struct_('>BI6I6I6I8', 17, lives, due, longest, from)
  else head = struct_('>BI6I6I6', 16, lives, due, longest) end
  call('HSET', bucket, '', head, ...)
  return call('PEXPIREAT', bucket, lives)
end
local function forget(i) call('HDEL', KEYS[count+i], fieldOf(KEYS[i])) end

-- include: stamps put
-- Replays records of the fallback store. The rule is told in docs/adr/0005 and, as a function, in
-- internal/sim/merge.go, whose names this script keeps.
--
-- KEYS:       k…, and the bucket of each
-- ARGV:       window, StampTTL in ms, lock prefix, and for each key: what is to be done, and the
--             value. At last, the number of k. What is to be done is packed: s, d or f for set, del
--             or fill (S, D, F: the record's clock may be off by more than u, as it is, too, if its
--             time is yet to come); stamp; u, the margin, in µs (7 bytes); the value's end in ms
--             (6 bytes)
-- Answer:     for each key: 1 applied; 2 something newer is there; 3 a set was turned into a
--             delete; 4 a fill is too old; or an error. Or what untimely answers (lib/clock.lua)
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

local function replay(i, what, value)
  local op, at, client, number, u, ends = unstruct('>BI7c8I5I7I6', what)
  local key, verdict, set, fill, unsure = KEYS[i], 1, op == 115, op == 102, op < 97 or at > now + u
  if op < 97 then set, fill = op == 83, op == 70 end
  if (set or fill) and (ms >= ends or at < newest + u) or fill and unsure then
    if fill then return 4 end
    -- what it has replaced must not come back
    set, verdict = false, 3
  end
  if full and (set or fill) then return full end

  local c, unknown = stampOf(i)
  local v = redis.pcall('GET', key)
  -- of another type: somebody's value
  if type(v) == 'table' then v = '' end
  local cAt, cClient, cNumber, cEnds, cOther
  if c then cAt, cClient, cNumber, cEnds, cOther = parts(c) end
  if fill then
    if v or unknown or c and (cAt >= newest or cEnds > ms) then return 2 end
    put(key, value, ends - ms)
    return 1
  end
  local own = c and cClient == client
  if own and cNumber >= number then return 2 end

  local time, other, contested, top = at, 0, unknown, number
  if unsure then
    -- a delete that happens now
    if set then set, verdict = false, 3 end
    time = max(now, c and cAt + 1 or 0)
  elseif own then
    time = max(at, cAt)
    if cOther ~= 0 and cOther >= time - u then other, contested = cOther, true end
  elseif c and cAt > at + u then
    return 2
  elseif c and cAt >= at - u then
    contested = true
    if cAt < at or cAt == at and cClient < client then other = cAt
    else time, client, top, other = cAt, cClient, cNumber, max(cOther, at) end
  end

  local wins, stays = set and not contested, 0
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
  place(i, stored(time, client, top, stays, other), ms, stays, keep)
  return verdict
end

for i = 1, count do answers[i] = replay(i, ARGV[2*i+2], ARGV[2*i+3]) end
return answers

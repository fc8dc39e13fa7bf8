-- include: stamps put
-- Replays records of the fallback store. The rule is told in docs/adr/0005 and, as a function, in
-- internal/sim/merge.go, whose names this script keeps.
--
-- KEYS:       k…, and where their stamps stand
-- ARGV:       window, StampTTL in ms, lock prefix, and for each key: set, del or fill; stamp; u,
--             the margin, in µs; value; its end in ms; 1 if the record's clock may be off by more
--             than u (so it is, too, if its time is yet to come). At last, the number of k
-- Answer:     for each key: 1 applied; 2 something newer is there; 3 a set was turned into a
--             delete; 4 a fill is too old; or an error. Or what untimely answers (lib/clock.lua)
-- Second run: now or after any other records, ends in the same state. Records whose clock may be
--             off are the exception: these need the window

local keep, lock, now = tonumber(ARGV[2]), ARGV[3], clock()
local refusal = untimely(now, ARGV[1])
if refusal then return refusal end
local ms, answers = math.floor(now / 1000), {}
local full = whenFull()

local function replay(i, op, mine, u, value, ends, unsure)
  local key, at, verdict = KEYS[i], tonumber(mine:sub(1, 16)), 1
  if at > now + u then unsure = true end
  if op ~= 'del' and (ms >= ends or now > at + keep * 1000 - u) or op == 'fill' and unsure then
    if op == 'fill' then return 4 end
    -- what it has replaced must not come back
    op, verdict = 'del', 3
  end
  if op ~= 'del' and full then return full end

  local c = stampOf(i)
  local v = redis.pcall('GETEX', key)
  if type(v) == 'table' then v = redis.pcall('GET', key) end
  -- of another type: somebody's value
  if type(v) == 'table' then v = '' end
  if op == 'fill' then
    if c or v then return 2 end
    put(key, value, digits(math.max(ends - ms, 1)))
    return 1
  end
  if overtaken(c, mine) then return 2 end

  local cAt, cOther, cEnds
  if c then cAt, cOther, cEnds = tonumber(c:sub(1, 16)), tonumber(c:sub(45, 60)), tonumber(c:sub(61)) end
  local time, by, other, contested = at, mine:sub(17), 0, false
  if unsure then
    -- a delete that happens now
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
    -- the load has read what this has written, or newer
    verdict = wins and 2 or verdict
  elseif wins and (not v or locked or c and ms < cEnds) then
    stays, left = digits(ends), math.max(keep, ends - ms)
    put(key, value, digits(math.max(ends - ms, 1)))
  else
    if op == 'set' then verdict = 3 end
    if v then call('UNLINK', key) end
  end
  place(i, padded(time) .. by .. padded(other) .. stays, left)
  return verdict
end

for i = 1, count do
  local a = 6 * i - 2
  answers[i] = replay(i, ARGV[a], ARGV[a+1], tonumber(ARGV[a+2]), ARGV[a+3], tonumber(ARGV[a+4]), ARGV[a+5] == '1')
end
return answers

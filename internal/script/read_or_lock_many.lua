-- Does for many keys what read_or_lock.lua does for one.
--
-- KEYS:       k…
-- ARGV:       marker, LockTTL in ms, most bytes to answer, if they are of more than one value
-- Answer:     v, ttl, v, ttl, …; v may be an error. Or 1: all keys have our marker now
-- Second run: finds the markers of the first, which the caller knows as its own
--
-- Up to Redis 7.0 whatever a script reads makes all its keys tracked, at a cost that grows with
-- their square. Hence the passes: lock before anything is read, then read, and, if something was
-- read, write once more what was locked, which ends its being tracked.
--
-- From Redis 7.0 on one SET locks a key or answers what it holds, untracked; PTTL makes it tracked.
-- Before, where SET is refused, and once there is enough to answer, SETRANGE of nothing tells how
-- much there is, and one MGET reads it.

local keys, call, pcall, marker, ttl, most = KEYS, redis.call, redis.pcall, ARGV[1], ARGV[2], tonumber(ARGV[3])
local gets, answer, mine, n, sum, read, others = redis.REDIS_VERSION_NUM, {}, {}, 0, 0, false
for i = 1, #keys do
  local key, v, locked, size = keys[i], nil, nil, 0
  if gets and sum < most then
    v = pcall('SET', key, marker, 'NX', 'GET', 'PX', ttl)
    locked = not v
  end
  if locked == nil or type(v) == 'table' then
    v = pcall('SET', key, marker, 'NX', 'PX', ttl)
    locked = v and v.ok
    if not locked then size = pcall('SETRANGE', key, 0, '') end
  elseif v then
    size = #v
  end
  if type(size) ~= 'number' then size = 0 end
  if locked then
    n = n + 1
    mine[n] = i
  elseif sum > 0 and sum + size > most then
    answer[2*i-1], answer[2*i], gets = 2, size, nil
  else
    sum, read, answer[2*i-1] = sum + size, true, v
    if type(v) == 'string' then answer[2*i] = true
    else
      others = others or {}
      others[#others+1] = key
    end
  end
end
if n == #keys then return 1 end
for j = 1, n do answer[2*mine[j]-1], answer[2*mine[j]] = 1, 0 end
if not read then return answer end
local values, at = others and call('MGET', unpack(others)), 0
for i = 1, #keys do
  if answer[2*i] == true then
    answer[2*i] = call('PTTL', keys[i])
  elseif not answer[2*i] then
    at = at + 1
    local v = values[at]
    if v then
      answer[2*i-1], answer[2*i] = v, call('PTTL', keys[i])
    else
      -- gone, or of another type
      answer[2*i-1], answer[2*i] = answer[2*i-1] or pcall('GET', keys[i]), -2
    end
  end
end
for j = 1, n do call('PEXPIRE', keys[mine[j]], ttl) end
return answer

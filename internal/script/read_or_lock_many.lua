-- Does for many keys what read_or_lock.lua does for one.
--
-- KEYS:       k…
-- ARGV:       marker, LockTTL in ms, most bytes to answer, if they are of more than one value
-- Answer:     v, ttl, v, ttl, …; v may be an error. Or 1: all keys have our marker now
-- Second run: finds the markers of the first, which the caller knows as its own
--
-- Up to Redis 7.0 whatever a script reads makes all its keys tracked, at a cost that grows with
-- their square. Hence the passes: lock before anything is read, read all at once, and, if something
-- was read, write once more what was locked, which ends its being tracked.

local keys, call, pcall, marker, ttl = KEYS, redis.call, redis.pcall, ARGV[1], ARGV[2]
local answer, mine, n, others, sum = {}, {}, 0, {}, 0
for i = 1, #keys do
  local key = keys[i]
  local locked = pcall('SET', key, marker, 'NX', 'PX', ttl)
  if locked and locked.ok then
    n = n + 1
    mine[n] = i
  else
    local size = pcall('SETRANGE', key, 0, '')
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
if n == #keys then return 1 end
for j = 1, n do answer[2*mine[j]-1], answer[2*mine[j]] = 1, 0 end
if #others == 0 then return answer end
local values, at = call('MGET', unpack(others)), 0
for i = 1, #keys do
  if not answer[2*i] then
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

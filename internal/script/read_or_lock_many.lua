-- Does for many keys what read_or_lock.lua does for one.
--
-- KEYS:       k…
-- ARGV:       marker, LockTTL in ms, most bytes to answer, if they are of more than one value
-- Answer:     v, ttl, v, ttl, …; v may be an error
-- Second run: finds the markers of the first, which the caller knows as its own
--
-- Up to Redis 7.0 whatever a script reads makes all its keys tracked, at a cost that grows with
-- their square. Hence the passes: lock before anything is read, read all at once, and, if something
-- was read, write once more what was locked, which ends its being tracked.

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
    else
      -- gone, or of another type
      answer[2*i-1], answer[2*i] = answer[2*i-1] or redis.pcall('GET', KEYS[i]), -2
    end
  end
end
for i = 1, #mine do call('PEXPIRE', mine[i], ttl) end
return answer

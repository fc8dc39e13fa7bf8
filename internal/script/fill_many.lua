-- include: call
-- Does for many keys what fill.lua does for one.
--
-- KEYS:       k…
-- ARGV:       marker, value, ttl in ms, …
-- Answer:     1 stored or 0 refused, …; or 1: all are stored
-- Second run: finds no markers and is refused
--
-- It does what look and put do, but calls no function for a key, which takes a sixth off its time.

local keys, args, pcall, refused = KEYS, ARGV, redis.pcall
local ttl, endless
for i = 1, #keys do
  local key, a = keys[i], 3*i-2
  local v = pcall('GETEX', key)
  if type(v) == 'table' then v = call('GET', key) end
  if v == args[a] then
    if args[a+2] ~= ttl then
      ttl = args[a+2]
      endless = tonumber(ttl) > LONGEST_TTL
    end
    if endless then call('SET', key, args[a+1]) else call('PSETEX', key, ttl, args[a+1]) end
  else
    refused = refused or {}
    refused[i] = true
  end
end
call('EXISTS', unpack(keys))
if not refused then return 1 end
local answer = {}
for i = 1, #keys do answer[i] = refused[i] and 0 or 1 end
return answer

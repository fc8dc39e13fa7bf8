-- include: clock
-- Reads the states of groups, and gives a new one to each that has none: that clears it.
--
-- KEYS:       g…
-- ARGV:       for each: ttl in ms; 0: it does not expire
-- Answer:     for each: its state, and its PTTL. The state is false where there is none and none can
--             be made, as on a full server
-- Second run: finds the states that the first has made
--
-- A state is the time when it was made, in µs. It is made before anything is read, so that Redis does
-- not push our own write to us; see read_or_lock_many.lua. Where more than half of a ttl is over, it
-- begins anew.

local call, pcall, made, answer = redis.call, redis.pcall, string.format('%016.0f', clock()), {}
local function make(key, ttl, nx)
  local args = {'SET', key, made}
  if ttl ~= '0' then args[4], args[5] = 'PX', ttl end
  if nx then args[#args+1] = 'NX' end
  local said = pcall(unpack(args))
  return type(said) == 'table' and said.ok
end
for i = 1, #KEYS do make(KEYS[i], ARGV[i], true) end
local states = call('MGET', unpack(KEYS))
for i = 1, #KEYS do
  local v, left = states[i], call('PTTL', KEYS[i])
  if not (v and #v == 16 and v:match('^%d+$')) then
    v = make(KEYS[i], ARGV[i]) and made or false
    left = call('PTTL', KEYS[i])
  elseif ARGV[i] ~= '0' and 2 * left < tonumber(ARGV[i]) then
    pcall('PEXPIRE', KEYS[i], ARGV[i])
    left = call('PTTL', KEYS[i])
  end
  answer[2*i-1], answer[2*i] = v, left
end
call('EXISTS', unpack(KEYS))
return answer

-- include: clock look
-- ends: when a key expires, in ms since 1970, or nil. Before Redis 7 it is reckoned from two clocks,
--       and may differ by some ms between two runs.

local function ends(key)
  local at = redis.pcall('PEXPIRETIME', key)
  if type(at) ~= 'number' then
    local left = call('PTTL', key)
    at = left > 0 and math.floor(clock() / 1000) + left or -1
  end
  if at > 0 then return at end
end

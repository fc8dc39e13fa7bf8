-- include: call
-- look: what a key holds, without its being tracked: we are not told when it changes. Where GETEX
--       cannot be had (before Redis 6.2) GET serves, at the cost of one more read.

local function look(key)
  local v = redis.pcall('GETEX', key)
  if type(v) == 'table' then return call('GET', key) end
  return v
end

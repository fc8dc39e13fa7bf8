-- include: call
-- put: writes a value for a ttl in ms. A ttl of more than LONGEST_TTL is none: the value does not
--      expire.

local function put(key, value, ttl)
  if tonumber(ttl) > LONGEST_TTL then return call('SET', key, value) end
  return call('PSETEX', key, ttl, value)
end

-- put: writes a value for a ttl in ms. A ttl of more than LONGEST_TTL is none: the value does not
--      expire.

local function put(key, value, ttl)
  if tonumber(ttl) > LONGEST_TTL then return redis.call('SET', key, value) end
  return redis.call('PSETEX', key, ttl, value)
end

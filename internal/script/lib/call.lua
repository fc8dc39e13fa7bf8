-- call: redis.call.

local call = redis.call

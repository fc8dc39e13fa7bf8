-- include: clock
-- Gives values a new ttl. A lock keeps its holder's, a cached absence its own.
--
-- KEYS:       k…
-- ARGV:       window, ttl in ms, lock prefix…, absence
-- Answer:     1, or what untimely answers (lib/clock.lua)
-- Second run: needs the window: it gives the ttl again, also to what was written in between

local refusal = untimely(clock(), ARGV[1])
if refusal then return refusal end
for _, key in ipairs(KEYS) do
  local head, lock = redis.call('GETRANGE', key, 0, 31), false
  for i = 3, #ARGV - 1 do
    lock = lock or string.sub(head, 1, #ARGV[i]) == ARGV[i]
  end
  if head ~= ARGV[#ARGV] and not lock then
    if tonumber(ARGV[2]) > LONGEST_TTL then redis.call('PERSIST', key) else redis.call('PEXPIRE', key, ARGV[2]) end
  end
end
return 1

-- include: look clock put
-- Stores the values of Sets where Options.DisableStamps is set.
--
-- KEYS:       k…
-- ARGV:       window, and for each key: value, ttl in ms
-- Answer:     1, or what untimely answers (lib/clock.lua)
-- Second run: needs the window: it stores the values again, also over later writes

local refusal = untimely(clock(), ARGV[1])
if refusal then return refusal end
for i = 1, #KEYS do
  put(KEYS[i], ARGV[2*i], ARGV[2*i+1])
end
return 1

-- include: look clock put
-- Stores the value of a Set where Options.DisableStamps is set.
--
-- KEYS:       k
-- ARGV:       window, value, ttl in ms
-- Answer:     1, or what untimely answers (lib/clock.lua)
-- Second run: needs the window: it stores the value again, also over a later write

local refusal = untimely(clock(), ARGV[1])
if refusal then return refusal end
put(KEYS[1], ARGV[2], ARGV[3])
return 1

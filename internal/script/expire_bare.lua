-- include: clock shorten
-- Makes values stale where Options.DisableStamps is set, or a slot is moving: each has a grace left,
-- at most.
--
-- KEYS:       k…
-- ARGV:       window, grace in ms, lock prefix…
-- Answer:     1, or what untimely answers (lib/clock.lua)
-- Second run: needs the window: it makes stale again, also what was written in between

local refusal = untimely(clock(), ARGV[1])
if refusal then return refusal end
for _, key in ipairs(KEYS) do shorten(key, tonumber(ARGV[2]), 3, #ARGV) end
return 1

-- include: look clock
-- Deletes the keys of a Del where Options.DisableStamps is set.
--
-- KEYS:       k…
-- ARGV:       window
-- Answer:     1, or what untimely answers (lib/clock.lua)
-- Second run: needs the window: it deletes again, also what was written in between

local refusal = untimely(clock(), ARGV[1])
if refusal then return refusal end
call('UNLINK', unpack(KEYS))
return 1

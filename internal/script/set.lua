-- include: stamps put
-- Stores the value of a Set, and its stamp.
--
-- KEYS:       k, its stamp
-- ARGV:       window, stamp, StampTTL in ms, value, ttl in ms
-- Answer:     1, or what untimely answers (lib/clock.lua)
-- Second run: finds the stamp of the first, or of a later operation of the same client, and does
--             nothing. Another client's write in between hides that stamp; then the window bounds
--             how late the second run can be
--
-- SETRANGE of nothing changes nothing. It is there so that a full server refuses the script before
-- GETEX looks at the stamp: that counts as a write, and a script that has begun with a write may go
-- on to write.

local now = clock()
local refusal = untimely(now, ARGV[1])
if refusal then return refusal end
call('SETRANGE', KEYS[2], 0, '')
local was = stampOf(KEYS[2])
if overtaken(was, ARGV[2]) then return 1 end
put(KEYS[1], ARGV[4], ARGV[5])
call('SET', KEYS[2], later(now, was, ARGV[2], math.floor(now / 1000) + ARGV[5]), 'PX', digits(math.max(ARGV[3], ARGV[5])))
return 1

-- include: stamps
-- Leaves the stamp of a Set or Del alone, for a slot that is moving: there Redis answers TRYAGAIN
-- to a script with two keys, unless both are on the same side. The write itself follows as if there
-- were no stamps. In between the stamp is newer than the value; should nothing follow, the
-- operation has not been done, and its client knows.
--
-- KEYS:       the key's bucket
-- ARGV:       window, stamp, StampTTL in ms, ttl of the value in ms or 0, k
-- Answer:     1; 2: this operation, or a later one, has left its stamp already; or what untimely
--             answers (lib/clock.lua)
-- Second run: finds the stamp of the first, leaves it and answers 2

local now = clock()
local refusal = untimely(now, ARGV[1])
if refusal then return refusal end
local field, ttl = fieldOf(ARGV[5]), tonumber(ARGV[4])
local was, head = stampIn(KEYS[1], field)
if overtaken(was, ARGV[2]) then return 2 end
local ends = ttl > 0 and math.floor(now / 1000) + ttl or 0
leaveIn(KEYS[1], field, head, now, was, ARGV[2], ends, ARGV[3])
return 1

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
local field, ttl, ms = fieldOf(ARGV[5]), tonumber(ARGV[4]), floor(now / 1000)
local was, head = stampIn(KEYS[1], field)
local t, client, number = later(now, was, ARGV[2])
if not t then return 2 end
local ends = ttl > 0 and ms + ttl or 0
placeIn(KEYS[1], head, ms, ends, tonumber(ARGV[3]), field, stored(t, client, number, ends, 0, false, 2 * (t - now)))
return 1

-- include: stamps
-- Stores the values of Sets, and their stamps.
--
-- KEYS:       k…, some perhaps more than once, and the bucket of each
-- ARGV:       window, StampTTL in ms, '' or, if it may have been done, 'again', and for each key: stamp,
--             value, ttl in ms; then the number of k
-- Answer:     1, or what untimely answers (lib/clock.lua)
-- Second run: with 'again' it finds the stamps of the first, or of later operations of the same client,
--             and does nothing. Another client's write in between hides them, as does a Set or Del that
--             was under way at the same time; then the window bounds how late the second run can be

local now = clock()
local refusal = untimely(now, ARGV[1])
if refusal then return refusal end
local args, keys, keep, ms, again = ARGV, KEYS, tonumber(ARGV[2]), floor(now / 1000), ARGV[3] ~= ''
local ttl, left, before, behind
for i = 1, count do
  local key, bucket, mine = keys[i], keys[count+i], args[3*i+1]
  local field = fieldOf(key)
  local head, t, client, number = written(bucket, field, now, mine, again)
  if t then
    if ttl ~= args[3*i+3] then
      ttl = args[3*i+3]
      left = tonumber(ttl)
      before, behind = around(now, left)
    end
    -- as put would, but for a ttl that is a number by now
    if left > LONGEST_TTL then call('SET', key, args[3*i+2]) else call('PSETEX', key, ttl, args[3*i+2]) end
    local stamp = t == now and before .. identity(mine) .. behind or stored(t, client, number, ms + left, 0, false, 2 * (t - now))
    placeIn(bucket, head, ms, ms + left, keep, field, stamp)
  end
end
return 1

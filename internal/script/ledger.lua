-- include: clock
-- Begins entries in the ledgers of keys, before the operations that are kept for these are done for
-- the first time. docs/adr/0016 has the protocol.
--
-- KEYS:       the ledger of each key
-- ARGV:       window, how long a ledger lives, in ms, and for each key: the packed stamp that names
--             its list
-- Answer:     1, or what untimely answers (lib/clock.lua)
-- Second run: leaves what the first has begun, and what operate.lua has noted there since. The
--             window bounds how late it can be: one that came after the ledger was lost would make
--             a list look as if it had not been done
--
-- An entry is the packed stamp of the last operation that was done, all zeros if there is none, the
-- time of the server when that was written, in µs (7 bytes), and what operate.lua adds. Those written
-- longer ago than a ledger lives are removed; earlier versions left no time, so the list's counts.

local now = clock()
local refusal = untimely(now, ARGV[1])
if refusal then return refusal end
local lives = tonumber(ARGV[2])
for i = 1, #KEYS do
  local all = redis.call('HKEYS', KEYS[i])
  for j = 1, #all do
    local id = all[j]
    if #id < 20 then
      redis.call('HDEL', KEYS[i], id)
    elseif #id == 20 then
      local entry = redis.call('HMGET', KEYS[i], id)[1]
      local moved = #entry < 27 and struct.unpack('>I7', id) or struct.unpack('>I7', entry, 21)
      if moved < now - lives * 1000 then redis.call('HDEL', KEYS[i], id, id .. '!') end
    end
  end
  redis.call('HSETNX', KEYS[i], ARGV[i+2], string.rep('\0', 20) .. struct.pack('>I7', now))
  redis.call('PEXPIRE', KEYS[i], lives)
end
return 1

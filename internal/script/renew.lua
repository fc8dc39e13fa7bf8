-- include: look
-- Gives locks LockTTL again, if they are still ours.
--
-- KEYS:       k…
-- ARGV:       LockTTL in ms, marker…
-- Answer:     1 still ours or 0, …
-- Second run: renews once more; a lock's holder wants it to live

local answer = {}
for i, key in ipairs(KEYS) do
  answer[i] = look(key) == ARGV[i+1] and redis.call('PEXPIRE', key, ARGV[1]) or 0
end
return answer

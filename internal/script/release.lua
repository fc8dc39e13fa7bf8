-- include: look
-- Removes locks, if they are still ours.
--
-- KEYS:       k…
-- ARGV:       marker…
-- Answer:     1 it was ours until now or 0, …
-- Second run: finds no marker of ours: nobody sets the same one twice

local answer = {}
for i, key in ipairs(KEYS) do
  answer[i] = look(key) == ARGV[i] and redis.call('DEL', key) or 0
end
return answer

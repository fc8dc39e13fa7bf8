-- include: look
-- Does what release.lua does, for a load that has failed. The loader's error is remembered until
-- somebody sets the key, so we want to be told of that: EXISTS makes the keys tracked.
--
-- KEYS:       k…
-- ARGV:       marker…
-- Answer:     1 it was ours until now or 0, …
-- Second run: finds no marker of ours: nobody sets the same one twice

local answer = {}
for i, key in ipairs(KEYS) do
  answer[i] = look(key) == ARGV[i] and redis.call('DEL', key) or 0
end
call('EXISTS', unpack(KEYS))
return answer

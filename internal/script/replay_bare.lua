-- include: look clock
-- Replays records where Options.DisableStamps is set: nobody can tell what is newer, so a set is
-- replayed as a delete.
--
-- KEYS:       k…
-- ARGV:       window, and for each key: set, del or fill
-- Answer:     as in replay.lua
-- Second run: needs the window: it deletes again, also what was written in between

local refusal = untimely(clock(), ARGV[1])
if refusal then return refusal end
local answers = {}
for i, key in ipairs(KEYS) do
  local op = ARGV[i+1]
  if op ~= 'fill' then call('UNLINK', key) end
  answers[i] = op == 'fill' and 2 or op == 'set' and 3 or 1
end
return answers

-- include: look put
-- Does for many keys what fill.lua does for one.
--
-- KEYS:       k…
-- ARGV:       marker, value, ttl in ms, …
-- Answer:     1 stored or 0 refused, …
-- Second run: finds no markers and is refused

local answer = {}
for i = 1, #KEYS do
  local a = 3*i-2
  if look(KEYS[i]) == ARGV[a] then
    put(KEYS[i], ARGV[a+1], ARGV[a+2])
    answer[i] = 1
  else
    answer[i] = 0
  end
end
call('EXISTS', unpack(KEYS))
return answer

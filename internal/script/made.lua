-- include: look clock
-- Tells when a key was made that every flush takes along, and makes it where it is not there.
--
-- KEYS:       k
-- ARGV:       ttl in ms
-- Answer:     when k was made, in µs
-- Second run: finds the key that the first has made

local made = look(KEYS[1])
if made and tonumber(made) then
  call('PEXPIRE', KEYS[1], ARGV[1])
  return made
end
made = string.format('%016.0f', clock())
call('SET', KEYS[1], made, 'PX', ARGV[1])
return made

-- include: call
-- whenFull: the error by which a full server refuses writes, or nil. A script that has begun with a
--           write may go on to write, so one that wants to be refused asks before it writes

local function whenFull()
  local said = redis.pcall('SETRANGE', KEYS[1], 0, '')
  if type(said) == 'table' and said.err and said.err:find('OOM', 1, true) then return said end
end

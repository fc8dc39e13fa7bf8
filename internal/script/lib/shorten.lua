-- include: look
-- graceIn: the grace that the header of a value states, in ms, or nil (internal/wire has the picture).
-- shorten: has a value end within grace ms, or within that of its header if that is shorter, and 10 ms
--          sooner than it did, at least: so everybody is told, and a refresh that runs finds another
--          end (refreshed.lua). What has nothing left, or is a lock, which begins with one of
--          ARGV[first] to ARGV[last], is deleted. It answers how many ms are left.

local function graceIn(head)
  if not head:find('^%z' .. 'aside:1[hm]') then return end
  local at = 12
  local function varint()
    local n, unit, b = 0, 1
    repeat
      b = head:byte(at) or 0
      n, unit, at = n + b % 128 * unit, unit * 128, at + 1
    until b < 128
    return n
  end
  if head:sub(at, at) == 'b' then
    at = at + 1
    varint()
  end
  if head:sub(at, at) ~= 'l' then return end
  at = at + 1
  varint()
  return varint()
end
local function shorten(key, grace, first, last)
  local left, head = call('PTTL', key), redis.pcall('GETRANGE', key, 0, 63)
  if type(head) ~= 'string' then head = '' end
  grace = math.min(grace, graceIn(head) or grace)
  left = left == -1 and grace or math.min(grace, left - 10)
  for i = first, last do
    if head:sub(1, #ARGV[i]) == ARGV[i] then left = 0 end
  end
  if left > 0 then
    call('PEXPIRE', key, left)
    return left
  end
  call('UNLINK', key)
  return 0
end

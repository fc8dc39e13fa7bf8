-- include: look clock
-- What scripts do with stamps; internal/stamp has the layout. Times are numbers: 2^53 µs end in the
-- year 2255.
--
-- stampOf:   what a key holds, if it is a stamp, without its being tracked
-- overtaken: the stamp that is there is of this operation, or of a later one of the same client
-- later:     the stamp to leave, which is greater than the one that is there, for a value that ends
--            then (ms; 0: there is none)

local function stampOf(key)
  local s = redis.pcall('GETEX', key)
  if type(s) == 'table' then s = redis.pcall('GET', key) end
  if type(s) == 'string' and tonumber(s:sub(1, 16)) and tonumber(s:sub(33, 44)) and tonumber(s:sub(45, 60)) and tonumber(s:sub(61)) then
    return s
  end
end
local function overtaken(was, mine)
  return was and was:sub(17, 32) == mine:sub(17, 32) and tonumber(was:sub(33, 44)) >= tonumber(mine:sub(33, 44))
end
local function digits(n) return string.format('%.0f', n) end
local function padded(n) return string.format('%016.0f', n) end
local function later(now, was, mine, ends)
  local t = math.max(now, tonumber(mine:sub(1, 16)))
  if was then t = math.max(t, tonumber(was:sub(1, 16)) + 1) end
  return padded(t) .. mine:sub(17) .. padded(0) .. digits(ends)
end

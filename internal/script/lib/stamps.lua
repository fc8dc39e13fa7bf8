-- include: look clock
-- What scripts do with stamps; internal/stamp has the layout, and only this file knows where a stamp
-- stands. i is the place of a data key in KEYS, where data keys come first. Times are numbers: 2^53
-- µs end in the year 2255.
--
-- count:     how many data keys there are. Their number is the last ARGV of each script with stamps
-- whenFull:  the error by which a full server refuses writes, or nil. A script that has begun with a
--            write may go on to write, so one that wants to be refused asks before it writes
-- stampIn:   the stamp that a key of stamps has for a data key, or nil
-- stampOf:   the stamp of the ith key, or nil, without its being tracked
-- overtaken: the stamp that is there is of this operation, or of a later one of the same client
-- place:     puts a whole stamp beside the ith key, for keep ms
-- leaveIn:   leave, for a key of stamps
-- leave:     leaves a stamp for the ith key that is later than the one that was there. ends: until
--            when a value of the key is this writer's (ms; 0: there is none). keep: how long the
--            stamp must live at least, in ms

local count = tonumber(ARGV[#ARGV])
local function whenFull()
  local said = redis.pcall('SETRANGE', KEYS[1], 0, '')
  if type(said) == 'table' and said.err and said.err:find('OOM', 1, true) then return said end
end
local function stampIn(key)
  local s = redis.pcall('GETEX', key)
  if type(s) == 'table' then s = redis.pcall('GET', key) end
  if type(s) == 'string' and tonumber(s:sub(1, 16)) and tonumber(s:sub(33, 44)) and tonumber(s:sub(45, 60)) and tonumber(s:sub(61)) then
    return s
  end
end
local function stampOf(i) return stampIn(KEYS[count+i]) end
local function overtaken(was, mine)
  return was and was:sub(17, 32) == mine:sub(17, 32) and tonumber(was:sub(33, 44)) >= tonumber(mine:sub(33, 44))
end
local function digits(n) return string.format('%.0f', n) end
local function padded(n) return string.format('%016.0f', n) end
local function place(i, stamp, keep) call('SET', KEYS[count+i], stamp, 'PX', digits(keep)) end
local function leaveIn(key, now, was, mine, ends, keep)
  local t = math.max(now, tonumber(mine:sub(1, 16)))
  if was then t = math.max(t, tonumber(was:sub(1, 16)) + 1) end
  call('SET', key, padded(t) .. mine:sub(17) .. padded(0) .. digits(ends), 'PX', digits(keep))
end
local function leave(i, now, was, mine, ends, keep) leaveIn(KEYS[count+i], now, was, mine, ends, keep) end

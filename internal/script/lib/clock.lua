-- include: call
-- clock: the server's time in µs.
-- untimely: the answer that refuses a script which runs outside of its window, else nil. 0: it is
--           later than the window. -1: it is earlier by far than it was by the clock that the
--           client goes by, so that is another clock. See writeWindow.

local function clock()
  local t = call('TIME')
  return t[1] * 1000000 + t[2]
end
local function untimely(now, window)
  local from, to = window:match('^(%d+)%-(%d+)$')
  if now > tonumber(to or window) then return 0 end
  if from and now < tonumber(from) then return -1 end
end

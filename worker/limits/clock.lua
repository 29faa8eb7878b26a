-- Goes before every script that needs the time: Redis' own, in milliseconds. FARTHEST stands before it.
local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
-- Milliseconds from `now` to a noted moment. What lies further ahead than anything is ever noted was noted before the
-- clock was set back: it is over.
local function left(at, now)
  local ms = tonumber(at or 0) - now
  return ms > FARTHEST and 0 or ms
end

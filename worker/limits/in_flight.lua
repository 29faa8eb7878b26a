-- Permits held by workers that are alive. KEYS: the holders of a route.
local t = redis.call('TIME')
local now, held = t[1] * 1000 + math.floor(t[2] / 1000), 0
for _, packed in ipairs(redis.call('HVALS', KEYS[1])) do
  local record = cmsgpack.unpack(packed)
  if record[4] >= now then held = held + record[1] end
end
return held

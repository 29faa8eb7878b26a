-- Stop calls: opens a pause, or prolongs the one whose probe failed. KEYS: the hash. A JSON argument:
-- why, detail (empty when nothing new was learned: then why and detail stay as they are), wait (ms, 0 for a pause by hand), trips, epoch (of the caller's permit), probed, calls (calls may
-- probe), ttl (ms).
-- → 1 if it was open before, else 0. A caller of an epoch before the last resume is too late to change anything.
local ask, now = cjson.decode(ARGV[1]), clock()
local was, epoch = unpack(redis.call('HMGET', KEYS[1], 'paused', 'epoch'))
if ask.epoch and ask.epoch < tonumber(epoch or 0) then return 0 end
if was and ask.why ~= 'manual' and not ask.probed then return 0 end
if was == 'manual' then return 0 end
local known = was and ask.detail == '' and ask.why ~= 'manual'
redis.call('HSET', KEYS[1], 'paused', known and was or ask.why, 'until', now + ask.wait, 'trips', ask.trips)
if not known then redis.call('HSET', KEYS[1], 'detail', ask.detail) end
redis.call('HDEL', KEYS[1], 'probing', 'calls')
if ask.calls then redis.call('HSET', KEYS[1], 'calls', 1) end
redis.call('PEXPIRE', KEYS[1], ask.ttl)
if was then return 0 end
redis.call('HSET', KEYS[1], 'since', now)
return 1

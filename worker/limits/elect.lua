-- Elect one prober of a paused account. KEYS: the hash. ARGV: ms that the election holds.
-- → the pause's trips for the one elected; -1 when it is not time, or another has it; -2 when nothing is paused.
local now = clock()
local paused, over, probing, trips = unpack(redis.call('HMGET', KEYS[1], 'paused', 'until', 'probing', 'trips'))
if not paused then return -2 end
if paused == 'manual' or left(over, now) > 0 or left(probing, now) > 0 then return -1 end
redis.call('HSET', KEYS[1], 'probing', now + ARGV[1])
return tonumber(trips)

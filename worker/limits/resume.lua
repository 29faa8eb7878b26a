-- Let calls out again. KEYS: the hash. ARGV: "1" to lift a pause by hand, too. → 1 if it was paused.
local was = redis.call('HGET', KEYS[1], 'paused')
if not was or (was == 'manual' and ARGV[1] ~= '1') then return 0 end
redis.call('HDEL', KEYS[1], 'paused', 'until', 'trips', 'probing', 'since', 'detail', 'calls')
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
return 1

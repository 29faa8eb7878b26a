-- Close a learning window. KEYS: the route's state. A JSON argument: win (the window decided on), limit, learned,
-- breaker (both JSON text), length (ms of the next window), trial (1: a raised limit is tried in it, and the first
-- overload ends it), background (refusals of 10,000 calls that have nothing to do with load). → 1 for the one that decided, 0 for a latecomer.
local ask = cjson.decode(ARGV[1])
if tonumber(redis.call('HGET', KEYS[1], 'win')) ~= ask.win then return 0 end
redis.call('HSET', KEYS[1], 'win', ask.win + 1, 'opened', clock(), 'length', ask.length, 'limit', ask.limit,
  'learned', ask.learned, 'breaker', ask.breaker, 'trial', ask.trial,
  'background', ask.background or 0)
redis.call('HDEL', KEYS[1], 'ok', 'overloaded', 'bad', 'ms', 'pressed', 'closing')
return 1

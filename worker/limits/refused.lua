-- A job was refused with words about the account. → 1 to believe them, 0 if the job has itself to blame.
-- A strike is a refusal after others were answered since the job's first; the account was resumed in between, or the job
-- itself was its probe.
-- KEYS: the account, the route's state. A JSON argument: job, epoch (of its permit), probed, strikes, most (jobs to remember), ttl (ms).
-- The account's `answered` counts answers since its first refusal and `answered_in` is the epoch of the last of them (`sync`);
-- `job:<id>` has a refused job's strikes and the epochs of its first and last refusal; the state's `blamed` has the
-- answers at the last refusal of a model that is to blame, until that model is answered.
local ask = cjson.decode(ARGV[1])
local account, state = KEYS[1], KEYS[2]
local name = 'job:' .. ask.job
redis.call('HSETNX', account, 'answered', 0)
redis.call('PEXPIRE', account, ask.ttl)
local answered, answered_in, kept = unpack(redis.call('HMGET', account, 'answered', 'answered_in', name))
local strikes, first, last = 0, ask.epoch, ask.epoch
if kept then
  strikes, first, last = string.match(kept, '(%d+) (%d+) (%d+)')
  strikes, first, last = tonumber(strikes), tonumber(first), tonumber(last)
  if (ask.epoch > last or ask.probed) and tonumber(answered_in or 0) > first then strikes = strikes + 1 end
end
local blamed = redis.call('HGET', state, 'blamed')
if strikes >= ask.strikes or (blamed and tonumber(answered) > tonumber(blamed)) then
  redis.call('HSET', state, 'blamed', answered)
  redis.call('PEXPIRE', state, ask.ttl)
  redis.call('HDEL', account, name)
  return 0
end
if not kept and redis.call('HLEN', account) > ask.most then
  for _, field in ipairs(redis.call('HKEYS', account)) do
    if string.sub(field, 1, 4) == 'job:' then redis.call('HDEL', account, field) end
  end
end
redis.call('HSET', account, name, strikes .. ' ' .. first .. ' ' .. math.max(last, ask.epoch))
return 1

-- Whose trouble a refusal is, by what all workers have seen of the key; the rules stand in `refusals`.
-- KEYS: the account, the route's state. A JSON argument: job, unexplained, in_a_row, strikes, most (jobs to remember),
-- ttl (ms). → "account", "doubted" or "request".
-- The account's `answered` counts answers since the first refusal (`sync`), `row` lists jobs refused without a reason,
-- `job:<id>` has a refused job's strikes and the answers at its last refusal; the state's `blamed` has those at the last
-- refusal of a model that is to blame.
local ask = cjson.decode(ARGV[1])
local account, state = KEYS[1], KEYS[2]
redis.call('HSETNX', account, 'answered', 0)
redis.call('PEXPIRE', account, ask.ttl)
local answered = tonumber(redis.call('HGET', account, 'answered'))

if ask.unexplained then
  local row, known = cjson.decode(redis.call('HGET', account, 'row') or '[]'), false
  for _, job in ipairs(row) do known = known or job == ask.job end
  if not known and #row < ask.in_a_row then
    row[#row + 1] = ask.job
    redis.call('HSET', account, 'row', cjson.encode(row))
  end
  return #row >= ask.in_a_row and 'account' or 'request'
end

local name = 'job:' .. ask.job
local strikes, before = 0, answered
local kept = redis.call('HGET', account, name)
if kept then strikes, before = string.match(kept, '(%d+) (%d+)') end
local again = answered > tonumber(before)
strikes = tonumber(strikes) + (again and 1 or 0)
local blamed = tonumber(redis.call('HGET', state, 'blamed') or answered)
if strikes >= ask.strikes or answered > blamed then
  redis.call('HSET', state, 'blamed', answered)
  redis.call('PEXPIRE', state, ask.ttl)
  redis.call('HDEL', account, name)
  return 'request'
end
if not kept and redis.call('HLEN', account) > ask.most then
  for _, field in ipairs(redis.call('HKEYS', account)) do
    if string.sub(field, 1, 4) == 'job:' then redis.call('HDEL', account, field) end
  end
end
redis.call('HSET', account, name, strikes .. ' ' .. answered)
return again and 'doubted' or 'account'

-- The one script of the hot path: report what is held, seen and spent; ask for more.
--
-- KEYS: the account, the route's state, then holders and rates of each scope, the route's own first.
-- A JSON argument:
--   h, q, ack    holder; number of this request; number of the last one whose reply arrived
--   use, want    permits in use now; permits that could be used (in use + waiting)
--   costs        tokens of each waiting call in its order, where calls are counted per minute; else empty
--   scopes       per scope {c, r, t}: calls at once, requests and tokens per minute; absent = no such limit
--   back         [[bucket, requests, tokens], …] to amend earlier bookings
--   seen         {ok, answered, overloaded, bad, ms, after}: calls that ended since the last report; `answered` are
--                those that were let out since the account's last resume
--   known        the limit under which they were let out: overloads under a higher one than now have had their verdict
--   seed         {limit, learned, length}: the route's state if Redis has none
--   calls        whether a paused account may be probed with a call
--   probes       whether one of the waiting calls may be that
--   ttl, state_ttl, probe_ttl; at: the clock, given by tests only
-- Reply: hold (permits the holder may use), n (of the costs, how many may go), why and wait (ms) for the rest, probe
-- ("account" or "route" when the one granted call is a probe), epochs, limit, holders, now, bucket, and `due` with the
-- window's counts when this holder is to decide on it.
-- Before it stand the clock and the numbers of `minute`: BUCKET, BUCKETS, SPAN, AHEAD.
local ask = cjson.decode(ARGV[1])
local now = ask.at or clock()
local bucket = math.floor(now / BUCKET)
local oldest = bucket - BUCKETS + 1
local account, state = KEYS[1], KEYS[2]

-- Fields of a holder's record.
local HOLD, WANT, STAMP, EXPIRES, SEQ, REQUESTS, TOKENS, WHEN, TURN = 1, 2, 3, 4, 5, 6, 7, 8, 9

local function read_holders(key)
  local flat, mine, others = redis.call('HGETALL', key), nil, {}
  for i = 1, #flat, 2 do
    local record = cmsgpack.unpack(flat[i + 1])
    if flat[i] == ask.h then mine = record
    elseif record[EXPIRES] < now then redis.call('HDEL', key, flat[i])
    else
      if record[EXPIRES] > now + 2 * ask.ttl then -- from before the clock was set back: one more lease
        record[EXPIRES] = now + ask.ttl
        redis.call('HSET', key, flat[i], cmsgpack.pack(record))
      end
      others[#others + 1] = record
    end
  end
  return mine or {0, 0, now, 0, 0, 0, 0, 0, 0}, others
end

-- Max-min shares. What does not divide evenly goes to those whose turn is the oldest, and passes on each second.
local function allowance(limit, mine, others, want)
  if not limit then return want end
  local active, held = 1, 0
  for _, other in ipairs(others) do
    held = held + other[HOLD]
    if other[WANT] > 0 then active = active + 1 end
  end
  local fair = math.floor(limit / active)
  local extra, rank, wanting, last = limit - fair * active, 0, false, now
  for _, other in ipairs(others) do
    last = math.max(last, other[STAMP] + 1)
    if other[WANT] > fair then
      if other[STAMP] < mine[STAMP] then rank = rank + 1 end
      if other[HOLD] < other[WANT] then wanting = true end
    end
  end
  local favoured = rank < extra
  if not favoured or want <= fair then mine[TURN] = 0
  elseif mine[TURN] == 0 or mine[TURN] > now then mine[TURN] = now
  elseif wanting and now - mine[TURN] > 1000 then
    mine[STAMP], mine[TURN], favoured = last, 0, false -- behind all others, also after the clock was set back
  end
  local reserved, spare = 0, favoured and extra - 1 or extra
  for _, other in ipairs(others) do
    local due = math.min(other[WANT], fair)
    if other[WANT] > fair and spare > 0 and (not favoured or other[STAMP] < mine[STAMP] or wanting) then
      due, spare = due + 1, spare - 1
    end
    reserved = reserved + due
  end
  local share = math.max(fair + (favoured and 1 or 0), limit - reserved)
  return math.max(0, math.min(want, share, limit - held))
end

local function open_rates(key)
  local fields = redis.call('HMGET', key, 'low', 'requests', 'tokens', 'request_pace', 'token_pace')
  local rates = {key = key, low = tonumber(fields[1] or oldest), requests = tonumber(fields[2] or 0),
    tokens = tonumber(fields[3] or 0), request_pace = tonumber(fields[4] or 0), token_pace = tonumber(fields[5] or 0)}
  if rates.low > bucket or rates.low <= oldest - BUCKETS then
    redis.call('DEL', key)
    if rates.low > bucket then rates.request_pace, rates.token_pace = 0, 0 end -- the clock was set back
    rates.low, rates.requests, rates.tokens = oldest, 0, 0
  elseif rates.low < oldest then
    local fields = {}
    for i = rates.low, oldest - 1 do
      fields[#fields + 1] = 'r' .. i
      fields[#fields + 1] = 't' .. i
    end
    local gone = redis.call('HMGET', key, unpack(fields))
    for i = 1, #gone, 2 do
      rates.requests = rates.requests - tonumber(gone[i] or 0)
      rates.tokens = rates.tokens - tonumber(gone[i + 1] or 0)
    end
    redis.call('HDEL', key, unpack(fields))
    rates.low = oldest
  end
  return rates
end

local function book(rates, limits, at, requests, tokens)
  if at < oldest or at > bucket + 1000 / BUCKET then return end
  if requests ~= 0 then redis.call('HINCRBY', rates.key, 'r' .. at, requests) end
  if tokens ~= 0 then redis.call('HINCRBY', rates.key, 't' .. at, tokens) end
  rates.requests, rates.tokens = rates.requests + requests, rates.tokens + tokens
  if limits.r then rates.request_pace = rates.request_pace + requests * SPAN / limits.r end
  if limits.t then rates.token_pace = rates.token_pace + tokens * SPAN / limits.t end
end

-- When enough of the window has passed for `cost` to fit.
local function until_room(rates, letter, spent, cost, limit)
  local fields = {}
  for i = oldest, bucket do fields[#fields + 1] = letter .. i end
  local amounts = redis.call('HMGET', rates.key, unpack(fields))
  for i = 1, #amounts do
    spent = spent - tonumber(amounts[i] or 0)
    if spent + cost <= limit then return (oldest + i - 1 + BUCKETS) * BUCKET - now end
  end
  return BUCKET
end

local function lateness(rates, limits, cost)
  local late, why = 0, nil
  local function worse(by, reason) if by > late then late, why = by, reason end end
  if limits.r then
    if rates.requests + 1 > limits.r then worse(until_room(rates, 'r', rates.requests, 1, limits.r), 'rpm') end
    worse(rates.request_pace - AHEAD - now, 'rpm')
  end
  if limits.t then
    cost = math.min(cost, limits.t)
    if rates.tokens + cost > limits.t then worse(until_room(rates, 't', rates.tokens, cost, limits.t), 'tpm') end
    worse(rates.token_pace - AHEAD - now, 'tpm')
  end
  return late, why
end

-- Paused? → reason, ms to wait, and whether one probe may go out now.
local function closed(key, may_probe)
  local paused, over, probing = unpack(redis.call('HMGET', key, 'paused', 'until', 'probing'))
  if not paused then return nil, 0, false end
  if paused == 'manual' then return paused, 5000, false end
  local wait = math.max(left(over, now), left(probing, now), 0)
  return paused, wait > 0 and wait or 1000, may_probe and wait <= 0
end

local mine, others = read_holders(KEYS[3])
if ask.q <= mine[SEQ] then return cjson.encode({stale = true}) end

-- The route's own limit is the configured one and the learned one, whichever is lower.
if redis.call('HSETNX', state, 'limit', ask.seed.limit) == 1 then
  redis.call('HSET', state, 'learned', ask.seed.learned, 'win', 1, 'opened', now, 'length', ask.seed.length)
end
local learned = tonumber(redis.call('HGET', state, 'limit'))
ask.scopes[1].c = math.min(ask.scopes[1].c or learned, learned)

-- Why nothing may go out, if so; and the one probe that may.
local why, wait, probe = closed(account,
  ask.probes ~= false and (ask.calls or redis.call('HEXISTS', account, 'calls') == 1))
local hashed, which = account, 'account'
if not why then
  why, wait, probe = closed(state, true)
  hashed, which = state, 'route'
end
local paused_why = why
local after = left(redis.call('HGET', state, 'after'), now)
if not why and after > 0 then why, wait = 'retry_after', after end

local shut = why ~= nil

local rates = {}
for i, limits in ipairs(ask.scopes) do
  if limits.r or limits.t then
    rates[i] = open_rates(KEYS[2 * i + 2])
    if mine[SEQ] ~= ask.ack and mine[REQUESTS] > 0 then
      book(rates[i], limits, mine[WHEN], -mine[REQUESTS], -mine[TOKENS])
    end
    for _, entry in ipairs(ask.back) do book(rates[i], limits, entry[1], entry[2], entry[3]) end
  end
end

-- How many calls at once: the least that any scope allows.
local want = why and ask.use or ask.want
local allow, records, total = want, {}, 0
for i, limits in ipairs(ask.scopes) do
  local me, rest = mine, others
  if i > 1 then me, rest = read_holders(KEYS[2 * i + 1]) end
  records[i] = me
  allow = math.min(allow, allowance(limits.c, me, rest, want))
  if i == 1 then for _, other in ipairs(rest) do total = total + other[HOLD] end end
end

-- Of the waiting calls that are counted per minute, the first ones that fit everywhere.
local n, tokens, room = 0, 0, allow - ask.use
if why then room = (probe and ask.want > ask.use) and 1 or 0 end
local held_by, held_for = nil, 0
for _, cost in ipairs(ask.costs) do
  if n >= room then break end
  for i, limits in ipairs(ask.scopes) do
    if rates[i] then
      local late, reason = lateness(rates[i], limits, cost)
      if reason and late > held_for then held_by, held_for = reason, late end
    end
  end
  if held_by then break end
  for i, limits in ipairs(ask.scopes) do
    if rates[i] then
      rates[i].request_pace = math.max(rates[i].request_pace, now)
      rates[i].token_pace = math.max(rates[i].token_pace, now)
      book(rates[i], limits, bucket, 1, cost)
    end
  end
  n, tokens = n + 1, tokens + cost
end
local rated = #ask.costs > 0
local probed = probe and room > 0 and (n > 0 or not rated)
if probed then redis.call('HSET', hashed, 'probing', now + ask.probe_ttl) end
if not why and held_by then why, wait = held_by, held_for end
if not why and ask.want > allow then why, wait = 'concurrency', 0 end

-- Write down what is held, so that it outlives this worker by one lease and no longer.
local usable = shut and 0 or allow
local hold = rated and ask.use + n or math.max(ask.use + (probed and 1 or 0), usable)
for i in ipairs(ask.scopes) do
  local key, me = KEYS[2 * i + 1], records[i]
  if ask.want == 0 and hold == 0 then redis.call('HDEL', key, ask.h)
  else
    redis.call('HSET', key, ask.h, cmsgpack.pack({hold, ask.want, me[STAMP], now + ask.ttl, ask.q, n, tokens,
      bucket, me[TURN]}))
    redis.call('PEXPIRE', key, 2 * ask.ttl)
  end
  if rates[i] then
    redis.call('HSET', rates[i].key, 'low', rates[i].low, 'requests', rates[i].requests, 'tokens', rates[i].tokens,
      'request_pace', rates[i].request_pace, 'token_pace', rates[i].token_pace)
    redis.call('PEXPIRE', rates[i].key, 150000)
  end
end

-- What was seen goes into the open window; the first to find it over decides on it.
local seen = ask.seen
if seen then
  for name, count in pairs(seen) do
    if name == 'after' then redis.call('HSET', state, 'after', now + math.max(after, count))
    elseif name == 'answered' then -- `refused` asks, from an account's first refusal on
      local counts, paused, epoch = unpack(redis.call('HMGET', account, 'answered', 'paused', 'epoch'))
      if counts and not paused then
        redis.call('HINCRBY', account, 'answered', count)
        redis.call('HSET', account, 'answered_in', epoch or 0)
        redis.call('HDEL', state, 'blamed')
      end
    elseif name == 'overloaded' and (ask.known or 0) > ask.scopes[1].c then -- of a limit that is no more
    elseif count > 0 then redis.call('HINCRBY', state, name, count) end
  end
end
if why == 'concurrency' or total + hold >= 0.9 * learned then redis.call('HSET', state, 'pressed', 1) end
redis.call('PEXPIRE', state, ask.state_ttl)
local w = redis.call('HMGET', state, 'win', 'opened', 'length', 'ok', 'overloaded', 'bad', 'ms', 'pressed', 'closing',
  'epoch', 'trial', 'background')
local due = nil
local failed = w[11] == '1' and w[5]
local closing = tonumber(w[9] or 0) - now
-- Set back, the clock would leave the window open until it is there again: then it is over, too.
if (failed or math.abs(now - tonumber(w[2])) >= tonumber(w[3])) and (w[4] or w[5] or w[6] or w[8])
  and (closing <= 0 or closing > 250) then
  redis.call('HSET', state, 'closing', now + 250)
  local kept = redis.call('HMGET', state, 'learned', 'breaker')
  due = {win = tonumber(w[1]), ok = tonumber(w[4] or 0), overloaded = tonumber(w[5] or 0), bad = tonumber(w[6] or 0),
    ms = tonumber(w[7] or 0), pressed = w[8] and true or false, learned = kept[1], breaker = kept[2] or nil}
end
return cjson.encode({hold = usable, n = n, why = why, wait = wait, probe = probed and which or nil,
  paused = paused_why and which or nil, detail = paused_why,
  route_epoch = tonumber(w[10] or 0), trips = tonumber(redis.call('HGET', hashed, 'trips') or 0),
  account_epoch = tonumber(redis.call('HGET', account, 'epoch') or 0),
  limit = ask.scopes[1].c, trial = w[11] == '1', background = tonumber(w[12] or 0), holders = #others + 1, now = now, bucket = bucket, due = due})

-- Append events to the logs of up to 256 jobs and publish them; one atomic step per call.
-- KEYS: the jobs' logs. ARGV: entries kept per log, seconds a running job's log lives, seconds a finished one's
-- lives, then for each job: epoch, floor, log (0 none, 1 running, 2 its last event is terminal), mode, n, and n
-- event tails (the JSON after `"seq":N,`).
-- Modes make a repeated call harmless when the reply of the first was lost:
--   0 this epoch's first call: what the log already holds of this epoch came from the lost one;
--   1 the floor is what the last reply said: entries above it are ours;
--   2 nothing may be skipped, but for a second terminal event.
-- Returns for each job its last seq, -1 when a higher epoch has written (the caller is a zombie), -2 when Redis
-- refused the write (out of memory, wrong type).
local kept, running_ttl, finished_ttl = ARGV[1], ARGV[2], ARGV[3]
local at = 4
local replies = {}

local function written_by(key, epoch, most)
  local count = 0
  for _, entry in ipairs(redis.call('XREVRANGE', key, '+', '-', 'COUNT', most)) do
    if tonumber(string.match(entry[1], '-(%d+)$')) ~= epoch then break end
    count = count + 1
  end
  return count
end

local function is_terminal(event)
  local name = string.match(event, '^{"job":"[^"]*","epoch":%d+,"seq":%d+,"type":"job%.(%a+)"')
  return name ~= nil and name ~= 'started'
end

-- The event with this seq and the id of its entry.
local function entry(head, seq, epoch, tail)
  local written = string.format('%d', seq)
  return head .. written .. ',' .. tail, written .. '-' .. epoch
end

local function append(key, first)
  local epoch, seq = tonumber(ARGV[first]), tonumber(ARGV[first + 1])
  local log, mode, n = ARGV[first + 2], ARGV[first + 3], tonumber(ARGV[first + 4])
  local head = '{"job":"' .. string.sub(key, #'stockpot:job:' + 1) .. '","epoch":' .. ARGV[first] .. ',"seq":'
  local skip, lasting = 0, mode == '1'
  if lasting and log ~= '0' and n > 0 then
    -- Nearly always the entry after the floor is simply the next. Redis takes it only if it is above all others, so not
    -- if a lost call or a higher epoch was there first, and not if the log is gone: then the last entry is looked at.
    local event, id = entry(head, seq + 1, ARGV[first], ARGV[first + 5])
    if type(redis.pcall('XADD', key, 'NOMKSTREAM', 'MAXLEN', '~', kept, id, 'e', event)) == 'string' then
      redis.call('PUBLISH', key, event)
      seq, skip = seq + 1, 1
    end
  end
  if log ~= '0' and skip == 0 then
    local last = redis.pcall('XREVRANGE', key, '+', '-', 'COUNT', 1)
    if last.err then return -2 end
    if last[1] then
      local last_seq, last_epoch = string.match(last[1][1], '^(%d+)-(%d+)$')
      last_seq, last_epoch = tonumber(last_seq), tonumber(last_epoch)
      if last_epoch > epoch then return -1 end
      if last_epoch == epoch and mode == '1' then
        skip = math.max(0, last_seq - seq)
      elseif last_epoch == epoch and mode == '0' then
        skip = written_by(key, epoch, n)
      elseif last_epoch == epoch and log == '2' and is_terminal(last[1][2][2]) then
        skip = n
      end
      seq = math.max(seq, last_seq)
    else
      lasting = false
    end
  end
  for i = 1 + skip, n do
    local event, id = entry(head, seq + 1, ARGV[first], ARGV[first + 4 + i])
    if log ~= '0' then
      local done = redis.pcall('XADD', key, 'MAXLEN', '~', kept, id, 'e', event)
      if type(done) == 'table' and done.err then return -2 end
    end
    seq = seq + 1
    redis.call('PUBLISH', key, event)
  end
  -- The running TTL spans a job's longest life: set once per epoch, and anew for a log that was lost.
  if log == '1' and not lasting then redis.call('EXPIRE', key, running_ttl) end
  if log == '2' then redis.call('EXPIRE', key, finished_ttl) end
  return seq
end

for i, key in ipairs(KEYS) do
  replies[i] = append(key, at)
  at = at + 5 + tonumber(ARGV[at + 4])
end
return replies

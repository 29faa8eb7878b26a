-- Append events to the logs of up to 256 jobs and publish them; one atomic step per call.
-- KEYS: the jobs' logs. ARGV: entries kept per log, seconds a running job's log lives, seconds a finished one's
-- lives, then for each job: epoch, log (0 none, 1 running, 2 its last event is terminal), has_ttl (1: the log has its
-- TTL from an earlier call of this epoch), n, and n pairs of a seq and an event tail (the JSON after `"seq":N,`).
-- The numbers are the caller's own (`event_numbers`), so a repeated call is harmless when the reply of the first was
-- lost: an entry that is there already is neither added nor published again.
-- Returns for each job 0, -1 when a higher epoch has written (the caller is a zombie), -2 when Redis refused the write
-- (out of memory, wrong type).
local kept, running_ttl, finished_ttl = ARGV[1], ARGV[2], ARGV[3]
local at = 4
local replies = {}

-- Why an entry was not taken: 0 it is there already, -1 a higher epoch has written, -2 anything else.
local function refusal(key, epoch, seq)
  local last = redis.pcall('XREVRANGE', key, '+', '-', 'COUNT', 1)
  if last.err or not last[1] then return -2 end
  local last_seq, last_epoch = string.match(last[1][1], '^(%d+)-(%d+)$')
  if tonumber(last_epoch) > tonumber(epoch) then return -1 end
  return tonumber(last_seq) >= tonumber(seq) and 0 or -2
end

local function append(key, first)
  local epoch, log, has_ttl, n = ARGV[first], ARGV[first + 1], ARGV[first + 2] == '1', tonumber(ARGV[first + 3])
  local head = '{"job":"' .. string.match(key, '[^:]*$') .. '","epoch":' .. epoch .. ',"seq":'
  for i = first + 4, first + 2 + 2 * n, 2 do
    local seq, done = ARGV[i], false
    local event = head .. seq .. ',' .. ARGV[i + 1]
    if log ~= '0' then
      local id = seq .. '-' .. epoch
      if has_ttl then
        done = redis.pcall('XADD', key, 'NOMKSTREAM', 'MAXLEN', '~', kept, id, 'e', event)
        has_ttl = done and true
      end
      if not done then done = redis.pcall('XADD', key, 'MAXLEN', '~', kept, id, 'e', event) end
    end
    if type(done) ~= 'table' then
      redis.call('PUBLISH', key, event)
    elseif done.err then
      local why = refusal(key, epoch, seq)
      if why ~= 0 then return why end
    end
  end
  -- The running TTL spans a job's longest life: set once per epoch, and anew for a log that was lost.
  if log == '1' and not has_ttl then redis.call('EXPIRE', key, running_ttl) end
  if log == '2' then redis.call('EXPIRE', key, finished_ttl) end
  return 0
end

for i, key in ipairs(KEYS) do
  replies[i] = append(key, at)
  at = at + 4 + 2 * tonumber(ARGV[at + 3])
end
return replies

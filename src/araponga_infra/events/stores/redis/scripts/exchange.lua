-- ARGV: owner, now, completed as JSON: {kind, handler, {ids}}, settlements as JSON: {kind, handler, id, event, target,
-- delay, attempts, losses, reason, problem}, wants as JSON: {handler, limit}, whether to ignore due times.
-- Returns fenced, milliseconds to the next due time or -1, and claims {handler, id, attempts, losses, envelope}.
local owner, now, ignore_due = ARGV[1], milliseconds(ARGV[2]), ARGV[6] == '1'
local fenced = 0

for _, batch in ipairs(cjson.decode(ARGV[3])) do
  local stream, ids = key(batch[1], batch[2]), batch[3]
  for first = 1, #ids, 1000 do
    local last = math.min(first + 999, #ids)
    fenced = fenced + (last - first + 1) - redis.call('XACK', stream, GROUP, unpack(ids, first, last))
    redis.call('XDEL', stream, unpack(ids, first, last))
  end
end

for _, settlement in ipairs(cjson.decode(ARGV[4])) do
  local kind, handler, id, event, target, delay, attempts, losses, reason, problem = unpack(settlement)
  local held = release(kind, handler, id)
  if held == nil then
    fenced = fenced + 1
  elseif target == 'dead' then
    bury(handler, event, attempts, losses, held.envelope, reason, problem, now, 0)
  elseif target == 'retryable' then
    add_later(attempts > 0 and 'retry' or 'later', handler, now + delay, attempts, losses, held.envelope)
  else
    add('ready', handler, attempts, losses, held.envelope)
    wake()
  end
end

local function promote(kind, handler, limit)
  local set = key(kind, handler)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', set, '-inf', ignore_due and '+inf' or now, 'LIMIT', 0, limit)) do
    local attempts, losses, envelope = string.match(member, '^(%d+) (%d+) (.*)$')
    redis.call('ZREM', set, member)
    add('ready', handler, attempts, losses, envelope)
  end
end

local claims, next_due = {}, -1
for _, want in ipairs(cjson.decode(ARGV[5])) do
  local handler, limit = want[1], want[2]
  promote('later', handler, limit)
  promote('retry', handler, limit)
  local stream = key('ready', handler)
  local read = has_stream(stream)
    and redis.call('XREADGROUP', 'GROUP', GROUP, owner, 'COUNT', limit, 'STREAMS', stream, '>')
  if read then
    for _, entry in ipairs(read[1][2]) do
      local fields = entry[2]
      claims[#claims + 1] = { handler, entry[1], fields[2], fields[4], fields[6] }
    end
  end
  for _, kind in ipairs({ 'later', 'retry' }) do
    local first = redis.call('ZRANGE', key(kind, handler), 0, 0, 'WITHSCORES')
    if first[2] then
      local wait = math.max(0, tonumber(first[2]) - now)
      if next_due < 0 or wait < next_due then next_due = wait end
    end
  end
end
return { fenced, next_due, claims }

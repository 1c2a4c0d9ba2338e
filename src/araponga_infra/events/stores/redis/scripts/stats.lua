-- ARGV: now. Returns rows {event, handler, queued, running, retrying, envelopes of the first that wait and are due}, and
-- rows {event and handler, dead}.
local now, rows = milliseconds(ARGV[1]), {}
local handlers = redis.call('HGETALL', root .. ':handlers')
for place = 1, #handlers, 2 do
  local handler, running, first = handlers[place], 0, {}
  local queued, retrying = redis.call('ZCARD', key('later', handler)), redis.call('ZCARD', key('retry', handler))
  for _, kind in ipairs({ 'ready', 'alone' }) do
    local stream = key(kind, handler)
    if has_stream(stream) then
      local held = redis.call('XPENDING', stream, GROUP)[1]
      running = running + held
      queued = queued + redis.call('XLEN', stream) - held
      local group = redis.call('XINFO', 'GROUPS', stream)[1]
      for field = 1, #group, 2 do
        if group[field] == 'last-delivered-id' then
          local waiting = redis.call('XRANGE', stream, '(' .. group[field + 1], '+', 'COUNT', 1)[1]
          if waiting then first[#first + 1] = waiting[2][6] end
        end
      end
    end
  end
  for _, kind in ipairs({ 'later', 'retry' }) do
    local due = redis.call('ZRANGEBYSCORE', key(kind, handler), '-inf', now, 'LIMIT', 0, 1)[1]
    if due then first[#first + 1] = string.match(due, '^%d+ %d+ (.*)$') end
  end
  local is_former = redis.call('HEXISTS', root .. ':subscriptions', handler) == 0
  if not is_former or queued + running + retrying > 0 then
    rows[#rows + 1] = { handlers[place + 1], handler, queued, running, retrying, first }
  end
end
return { rows, redis.call('HGETALL', root .. ':dead:counts') }

-- Returns rows {event, handler, queued, running, retrying, envelopes of the first that wait}, and rows {event and handler,
-- dead}.
local rows = {}
for _, handler in ipairs(handlers_of_store()) do
  local event = cjson.decode(redis.call('HGET', root .. ':subscriptions', handler)).event_name
  local queued, running, oldest = redis.call('ZCARD', key('later', handler)), 0, {}
  for _, kind in ipairs({ 'ready', 'alone' }) do
    local stream = key(kind, handler)
    if has_stream(stream) then
      local held = redis.call('XPENDING', stream, GROUP)[1]
      running = running + held
      queued = queued + redis.call('XLEN', stream) - held
      local group = redis.call('XINFO', 'GROUPS', stream)[1]
      for place = 1, #group, 2 do
        if group[place] == 'last-delivered-id' then
          local first = redis.call('XRANGE', stream, '(' .. group[place + 1], '+', 'COUNT', 1)[1]
          if first then oldest[#oldest + 1] = first[2][6] end
        end
      end
    end
  end
  rows[#rows + 1] = { event, handler, queued, running, redis.call('ZCARD', key('retry', handler)), oldest }
end
return { rows, redis.call('HGETALL', root .. ':dead:counts') }

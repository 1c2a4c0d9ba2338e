-- ARGV: now, handler, how many at most. What waits for the handler becomes dead letters; returns how many did.
local now, handler, most = milliseconds(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local buried = 0
local function end_it(due, attempts, losses, envelope)
  bury(handler, cjson.decode(envelope)[2], attempts, losses, envelope, 'handler_gone',
    'the handler was taken out of service', now, due)
  buried = buried + 1
end

local stored = redis.call('HGET', root .. ':subscriptions', handler)
if stored then redis.call('SREM', key('route', cjson.decode(stored).event_name), handler) end
redis.call('HDEL', root .. ':subscriptions', handler)
for _, kind in ipairs({ 'ready', 'alone' }) do
  local stream = key(kind, handler)
  while buried < most and has_stream(stream) do
    local read = redis.call('XREADGROUP', 'GROUP', GROUP, 'forget', 'COUNT', most - buried, 'STREAMS', stream, '>')
    if not read then break end
    for _, entry in ipairs(read[1][2]) do
      local held = release(kind, handler, entry[1])
      end_it(0, held.attempts, held.losses, held.envelope)
    end
  end
end
for _, kind in ipairs({ 'later', 'retry' }) do
  local queue = key(kind, handler)
  local members = buried < most and redis.call('ZRANGE', queue, 0, most - buried - 1, 'WITHSCORES') or {}
  for place = 1, #members, 2 do
    redis.call('ZREM', queue, members[place])
    end_it(members[place + 1], string.match(members[place], '^(%d+) (%d+) (.*)$'))
  end
end
return buried

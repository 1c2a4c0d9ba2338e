-- ARGV: now, handler. What waits for the handler becomes dead letters; returns how many.
local now, handler = milliseconds(ARGV[1]), ARGV[2]
local stored = redis.call('HGET', root .. ':subscriptions', handler)
local event = stored and cjson.decode(stored).event_name or ''
local buried = 0
local function end_it(attempts, losses, envelope)
  bury(handler, event, attempts, losses, envelope, 'handler_gone', 'the handler was taken out of service', now)
  buried = buried + 1
end

redis.call('SREM', key('route', event), handler)
redis.call('HDEL', root .. ':subscriptions', handler)
for _, kind in ipairs({ 'ready', 'alone' }) do
  local stream = key(kind, handler)
  while has_stream(stream) do
    local read = redis.call('XREADGROUP', 'GROUP', GROUP, 'forget', 'COUNT', 100, 'STREAMS', stream, '>')
    if not read then break end
    for _, entry in ipairs(read[1][2]) do
      local held = release(kind, handler, entry[1])
      end_it(held.attempts, held.losses, held.envelope)
    end
  end
end
for _, kind in ipairs({ 'later', 'retry' }) do
  for _, member in ipairs(redis.call('ZRANGE', key(kind, handler), 0, -1)) do
    end_it(string.match(member, '^(%d+) (%d+) (.*)$'))
  end
  redis.call('DEL', key(kind, handler))
end
return buried

-- ARGV: kept as JSON: {handler, event, subscription}, removed handlers as JSON, a name for this life where it has none yet,
-- whether only what is missing is written. Returns this life's name.
redis.call('SET', root .. ':life', ARGV[3], 'NX')
local is_restoring = ARGV[4] == '1'
local function drop(handler)
  local stored = redis.call('HGET', root .. ':subscriptions', handler)
  if stored then redis.call('SREM', key('route', cjson.decode(stored).event_name), handler) end
  redis.call('HDEL', root .. ':subscriptions', handler)
end

local function create_groups(handler)
  for _, kind in ipairs({ 'ready', 'alone' }) do
    local stream = key(kind, handler)
    if not has_stream(stream) then redis.call('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM') end
  end
end

for _, handler in ipairs(cjson.decode(ARGV[2])) do drop(handler) end
for _, kept in ipairs(cjson.decode(ARGV[1])) do
  local handler, event, subscription = unpack(kept)
  if not (is_restoring and redis.call('HEXISTS', root .. ':subscriptions', handler) == 1) then
    drop(handler)
    create_groups(handler)
    redis.call('HSET', root .. ':subscriptions', handler, subscription)
    redis.call('HSET', root .. ':handlers', handler, event)
    redis.call('SREM', root .. ':forgotten', handler)
    redis.call('SADD', key('route', event), handler)
  end
end
return redis.call('GET', root .. ':life')

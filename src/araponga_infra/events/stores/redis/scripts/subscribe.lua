-- ARGV: kept as JSON: {handler, event, subscription}, removed handlers as JSON, whether only where all was lost.
if redis.call('EXISTS', root .. ':kept') == 1 and ARGV[3] == '1' then return 0 end
redis.call('SET', root .. ':kept', '1')
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
  drop(kept[1])
  create_groups(kept[1])
  redis.call('HSET', root .. ':subscriptions', kept[1], kept[3])
  redis.call('HSET', root .. ':handlers', kept[1], kept[2])
  redis.call('SREM', root .. ':forgotten', kept[1])
  redis.call('SADD', key('route', kept[2]), kept[1])
end
return 1

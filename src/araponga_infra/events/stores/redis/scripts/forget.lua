-- ARGV: now, handler, how many at most. What waits for the handler becomes dead letters; returns how many did.
local handler = ARGV[2]
local stored = redis.call('HGET', root .. ':subscriptions', handler)
if stored then redis.call('SREM', key('route', cjson.decode(stored).event_name), handler) end
redis.call('HDEL', root .. ':subscriptions', handler)
redis.call('SADD', root .. ':forgotten', handler)
return bury_waiting(handler, tonumber(ARGV[3]), milliseconds(ARGV[1]))

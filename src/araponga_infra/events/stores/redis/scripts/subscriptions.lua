-- Returns this life's name ('' before the first subscription), and {handler, subscription, handler, subscription, ...}.
return { redis.call('GET', root .. ':life') or '', redis.call('HGETALL', root .. ':subscriptions') }

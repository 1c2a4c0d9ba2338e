-- ARGV: owner, now, lease.
redis.call('ZADD', root .. ':workers', string.format('%.0f', milliseconds(ARGV[2]) + tonumber(ARGV[3])), ARGV[1])
return 1

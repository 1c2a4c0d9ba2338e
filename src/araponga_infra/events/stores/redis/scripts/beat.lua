-- ARGV: owner, now, lease. Returns 0 when the owner was declared dead.
if not redis.call('ZSCORE', root .. ':workers', ARGV[1]) then return 0 end
redis.call('ZADD', root .. ':workers', string.format('%.0f', milliseconds(ARGV[2]) + tonumber(ARGV[3])), ARGV[1])
return 1

-- Give back a lease without a value. KEYS: entry, lease. ARGV: token, channel, message for waiters.
local holder = redis.call('GET', KEYS[2])
if holder and string.sub(holder, 1, #ARGV[1]) == ARGV[1] then
  redis.call('DEL', KEYS[2])
  if string.sub(holder, -1) == 'w' then redis.call('PUBLISH', ARGV[2], ARGV[3]) end
  return 1
end
return 0

-- Keep a lease while its load goes on. KEYS: lease. ARGV: token, lease in ms. Answers 1, or 0 when it is lost.
local holder = redis.call('GET', KEYS[1])
if holder and string.sub(holder, 1, #ARGV[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0

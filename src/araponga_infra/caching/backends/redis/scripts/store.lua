-- Store what was loaded under a lease; a lease that a delete voided, or that ran out, stores nothing.
-- KEYS: entry, lease. ARGV: token, entry, life in ms (0: no end), channel, message for waiters.
-- Answers 1 when stored.
local holder = redis.call('GET', KEYS[2])
if not holder or string.sub(holder, 1, #ARGV[1]) ~= ARGV[1] then return 0 end
if ARGV[3] == '0' then
  redis.call('SET', KEYS[1], ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
redis.call('DEL', KEYS[2])
if string.sub(holder, -1) == 'w' then redis.call('PUBLISH', ARGV[4], ARGV[5]) end
return 1

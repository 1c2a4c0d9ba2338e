-- Store a value, void the lease of a load that began before it, and tell the other instances.
-- A write that arrives late, after its sender gave up and purged the key, must not come back: it has a deadline.
-- KEYS: entry, lease. ARGV: entry, life in ms (0: no end), deadline in ms of the server's time, channel, message.
-- Answers: 1 written or 0 late; the server's time in ms.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now > tonumber(ARGV[3]) then return {0, now} end
if ARGV[2] == '0' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return {1, now}

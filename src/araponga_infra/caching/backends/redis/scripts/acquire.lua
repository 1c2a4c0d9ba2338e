-- Look again at an entry and, when nobody is loading it, lease the load.
-- KEYS: entry, lease. ARGV: token, lease in ms.
-- Answers: 1 granted or 0 taken; the entry or nil; the server's time in ms.
-- The letter after a taken lease's token says that somebody waits and is to be woken.
local entry = redis.call('GET', KEYS[1])
local holder = redis.call('GET', KEYS[2])
local granted = 0
if not holder or string.sub(holder, 1, #ARGV[1]) == ARGV[1] then
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
  granted = 1
elseif string.sub(holder, -1) ~= 'w' then
  redis.call('SET', KEYS[2], holder .. 'w', 'KEEPTTL')
end
local time = redis.call('TIME')
return {granted, entry, time[1] * 1000 + math.floor(time[2] / 1000)}

-- The token of a marker, made when there is none. KEYS: marker. ARGV: token to make, life in ms (0: no end).
-- A marker lives as long as the longest-lived entry that refers to it.
local token = redis.call('GET', KEYS[1])
if not token then
  if ARGV[2] == '0' then
    redis.call('SET', KEYS[1], ARGV[1])
  else
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  end
  return ARGV[1]
end
local left = redis.call('PTTL', KEYS[1])
if ARGV[2] == '0' then
  if left >= 0 then redis.call('PERSIST', KEYS[1]) end
elseif left >= 0 and left < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return token

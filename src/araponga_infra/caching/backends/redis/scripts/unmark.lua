-- Remove a marker, so that every entry that refers to it is a miss, and tell the other instances.
-- KEYS: marker. ARGV: channel, message, and the only value to remove ('' for any).
if ARGV[3] ~= '' and redis.call('GET', KEYS[1]) ~= ARGV[3] then return 0 end
local gone = redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[1], ARGV[2])
return gone

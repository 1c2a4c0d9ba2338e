-- Delete entries with the leases of loads under way, and tell the other instances.
-- KEYS: entries and leases. ARGV: channel, message.
local gone = redis.call('UNLINK', unpack(KEYS))
redis.call('PUBLISH', ARGV[1], ARGV[2])
return gone

-- ARGV: now, handlers as JSON, whether to ignore due times.
local until_when = ARGV[3] == '1' and '+inf' or milliseconds(ARGV[1])
local found = 0
for _, handler in ipairs(cjson.decode(ARGV[2])) do
  found = found + redis.call('XLEN', key('ready', handler)) + redis.call('XLEN', key('alone', handler))
  for _, kind in ipairs({ 'later', 'retry' }) do
    found = found + redis.call('ZCOUNT', key(kind, handler), '-inf', until_when)
  end
end
return found

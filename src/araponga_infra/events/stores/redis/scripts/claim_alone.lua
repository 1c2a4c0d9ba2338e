-- ARGV: owner, handlers as JSON. Returns one claim {handler, id, attempts, losses, envelope}, or nothing.
for _, handler in ipairs(cjson.decode(ARGV[2])) do
  local stream = key('alone', handler)
  if has_stream(stream) then
    local read = redis.call('XREADGROUP', 'GROUP', GROUP, ARGV[1], 'COUNT', 1, 'STREAMS', stream, '>')
    if read then
      local entry = read[1][2][1]
      return { { handler, entry[1], entry[2][2], entry[2][4], entry[2][6] } }
    end
  end
end
return {}

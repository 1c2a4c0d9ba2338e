-- ARGV: ids as JSON. Returns how many were made available.
local redriven = 0
for _, id in ipairs(cjson.decode(ARGV[1])) do
  local event = redis.call('HGET', key('letter', id), 'n')
  local handler = redis.call('HGET', key('letter', id), 'h')
  if event then
    local handlers = handler ~= '' and { handler } or redis.call('SMEMBERS', key('route', event))
    if #handlers > 0 then
      local letter = exhume(id)
      for _, each in ipairs(handlers) do add('ready', each, 0, 0, letter[3]) end
      redriven = redriven + 1
    end
  end
end
if redriven > 0 then wake() end
return redriven

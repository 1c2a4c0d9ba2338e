-- ARGV: now, ids as JSON. Returns how many were made available, or wait until they are due.
local now, redriven = milliseconds(ARGV[1]), 0
for _, id in ipairs(cjson.decode(ARGV[2])) do
  local event = redis.call('HGET', key('letter', id), 'n')
  local handler = redis.call('HGET', key('letter', id), 'h')
  if event then
    local handlers = handler ~= '' and { handler } or redis.call('SMEMBERS', key('route', event))
    if #handlers > 0 then
      local letter = exhume(id)
      local envelope, due = letter[3], tonumber(letter[6])
      for _, each in ipairs(handlers) do
        if due > now then add_later('later', each, due, 0, 0, envelope) else add('ready', each, 0, 0, envelope) end
      end
      redriven = redriven + 1
    end
  end
end
if redriven > 0 then wake() end
return redriven

-- ARGV: now, handlers of the caller as JSON. Returns how many were rescued, and whether suspects wait for the caller.
-- XAUTOCLAIM goes by idle time, which a long handler has as well; here the owner's lease decides.
-- What workers held of a handler when it was forgotten, and have given back or lost, becomes dead letters.
local now, rescued, BURIED_AT_ONCE = milliseconds(ARGV[1]), 0, 500
redis.call('ZREMRANGEBYSCORE', root .. ':workers', '-inf', now)

local function name_of(consumer)
  for place = 1, #consumer, 2 do
    if consumer[place] == 'name' then return consumer[place + 1] end
  end
end

local function rescue(kind, handler, owner)
  local stream = key(kind, handler)
  while true do
    local pending = redis.call('XPENDING', stream, GROUP, '-', '+', 100, owner)
    if #pending == 0 then break end
    for _, each in ipairs(pending) do
      local held = release(kind, handler, each[1])
      if held ~= nil then
        local started = kind == 'alone' and 1 or 0
        add('alone', handler, held.attempts + started, held.losses + 1, held.envelope)
        rescued = rescued + 1
      end
    end
  end
  redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, owner)
end

for _, handler in ipairs(redis.call('HKEYS', root .. ':handlers')) do
  for _, kind in ipairs({ 'ready', 'alone' }) do
    local stream = key(kind, handler)
    if has_stream(stream) then
      for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, GROUP)) do
        local owner = name_of(consumer)
        if not redis.call('ZSCORE', root .. ':workers', owner) then rescue(kind, handler, owner) end
      end
    end
  end
end
for _, handler in ipairs(redis.call('SMEMBERS', root .. ':forgotten')) do
  bury_waiting(handler, BURIED_AT_ONCE, now)
end
for _, handler in ipairs(cjson.decode(ARGV[2])) do
  local stream = key('alone', handler)
  if has_stream(stream) and redis.call('XLEN', stream) > redis.call('XPENDING', stream, GROUP)[1] then
    return { rescued, 1 }
  end
end
return { rescued, 0 }

-- ARGV: owner, held as JSON: {"<kind>:<id>:<handler>"}, whether the owner leaves, handlers as
-- JSON. Returns how many were given back.
local owner, held, given_back = ARGV[1], {}, 0
for _, id in ipairs(cjson.decode(ARGV[2])) do held[id] = true end
for _, handler in ipairs(cjson.decode(ARGV[4])) do
  for _, kind in ipairs({ 'ready', 'alone' }) do
    local stream = key(kind, handler)
    local pending = has_stream(stream) and redis.call('XPENDING', stream, GROUP, '-', '+', 100000, owner) or {}
    for _, each in ipairs(pending) do
      if not held[kind .. ':' .. each[1] .. ':' .. handler] then
        local entry = release(kind, handler, each[1])
        if entry then
          add('ready', handler, entry.attempts, entry.losses, entry.envelope)
          given_back = given_back + 1
        end
      end
    end
    if ARGV[3] == '1' and has_stream(stream) then redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, owner) end
  end
end
if ARGV[3] == '1' then redis.call('ZREM', root .. ':workers', owner) end
if given_back > 0 then wake() end
return given_back

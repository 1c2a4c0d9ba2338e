-- ARGV: now, messages as JSON: {event, id, window, due, delay, envelope}, how many subscriptions the caller knows, and in
-- which life of Redis it learnt them ('' if it knows none).
-- Returns deliveries, duplicates, unsubscribed, and where the subscriptions are more or fewer, they {handler, subscription,
-- ...} and this life's name; or {-1} and writes nothing where Redis has lost its data since.
local now, known = milliseconds(ARGV[1]), tonumber(ARGV[3])
local life = redis.call('GET', root .. ':life') or ''
if ARGV[4] ~= '' and ARGV[4] ~= life then return { -1 } end
local deliveries, duplicates, unsubscribed = 0, 0, 0
for _, message in ipairs(cjson.decode(ARGV[2])) do
  local event, id, window, due, delay, envelope = unpack(message)
  local is_duplicate = false
  if window > 0 then
    local accepted = root .. ':accepted:' .. id
    local expires = redis.call('GET', accepted)
    is_duplicate = expires and tonumber(expires) > now
    if not is_duplicate then
      redis.call('SET', accepted, string.format('%.0f', now + window), 'PX', string.format('%.0f', window))
    end
  end
  if is_duplicate then
    duplicates = duplicates + 1
  else
    local handlers = redis.call('SMEMBERS', key('route', event))
    if due < 0 and delay > 0 then due = now + delay end
    for _, handler in ipairs(handlers) do
      if due > now then add_later('later', handler, due, 0, 0, envelope) else add('ready', handler, 0, 0, envelope) end
    end
    deliveries = deliveries + #handlers
    if #handlers == 0 then
      bury('', event, 0, 0, envelope, 'no_subscriber', '', now, due)
      unsubscribed = unsubscribed + 1
    end
  end
end
if deliveries > 0 then wake() end
local is_changed = redis.call('HLEN', root .. ':subscriptions') ~= known
return { deliveries, duplicates, unsubscribed, is_changed and redis.call('HGETALL', root .. ':subscriptions') or {}, life }

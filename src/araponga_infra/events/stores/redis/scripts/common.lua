-- Every key begins with one hash tag, so that a script's keys lie on one node of a cluster.
--   <root>:ready:<handler>, <root>:alone:<handler>   streams, read by the consumer group "workers"
--   <root>:later:<handler>, <root>:retry:<handler>   sorted sets by due time: "<attempts> <losses> <envelope>"
--   <root>:route:<event>                             set of handlers
--   <root>:subscriptions                             hash of handler to subscription
--   <root>:handlers                                  hash of handler, former ones too, to the event that it takes
--   <root>:forgotten                                 set of handlers of which something may still be held by a worker
--   <root>:life                                      a name from the first subscription on, another after a loss of data
--   <root>:workers                                   sorted set of owners by expiry
--   <root>:letter:<id>                               hash per dead letter
--   <root>:dead, <root>:dead:<field>:<value>         sorted sets of their ids: all, of a handler, an event, a reason
--   <root>:dead:age                                  sorted set of "<time of death>:<id>"
local root = KEYS[1]
local GROUP = 'workers'

local function milliseconds(given)
  if given ~= '' then return tonumber(given) end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function key(kind, handler)
  return root .. ':' .. kind .. ':' .. handler
end

local function add(kind, handler, attempts, losses, envelope)
  return redis.call('XADD', key(kind, handler), '*', 'a', attempts, 'l', losses, 'e', envelope)
end

local function add_later(kind, handler, due, attempts, losses, envelope)
  redis.call('ZADD', key(kind, handler), string.format('%.0f', due), attempts .. ' ' .. losses .. ' ' .. envelope)
end

local function shelves(handler, event, reason)
  return { root .. ':dead', key('dead:handler', handler), key('dead:event', event), key('dead:reason', reason) }
end

local function age(died_at, id)
  return string.format('%016.0f:%s', died_at, id)
end

local function bury(handler, event, attempts, losses, envelope, reason, problem, died_at, due)
  local id = redis.call('INCR', root .. ':dead:last')
  for _, shelf in ipairs(shelves(handler, event, reason)) do redis.call('ZADD', shelf, id, id) end
  redis.call('ZADD', root .. ':dead:age', 0, age(died_at, id))
  redis.call('HSET', key('letter', id), 'h', handler, 'n', event, 'a', attempts, 'l', losses, 'e', envelope,
    'r', reason, 'x', problem, 't', string.format('%.0f', died_at), 'd', string.format('%.0f', due))
  redis.call('HINCRBY', root .. ':dead:counts', event .. '\n' .. handler, 1)
end

local function exhume(id)
  local letter = redis.call('HMGET', key('letter', id), 'h', 'n', 'e', 'r', 't', 'd')
  if not letter[1] then return nil end
  for _, shelf in ipairs(shelves(letter[1], letter[2], letter[4])) do redis.call('ZREM', shelf, id) end
  redis.call('ZREM', root .. ':dead:age', age(letter[5], id))
  redis.call('DEL', key('letter', id))
  local counted = letter[2] .. '\n' .. letter[1]
  if redis.call('HINCRBY', root .. ':dead:counts', counted, -1) <= 0 then
    redis.call('HDEL', root .. ':dead:counts', counted)
  end
  return letter
end

-- The entry of a claim that nobody has taken over; acknowledging is what tells.
local function release(kind, handler, id)
  local stream = key(kind, handler)
  local entries = redis.call('XRANGE', stream, id, id)
  local is_held = redis.call('XACK', stream, GROUP, id) == 1
  redis.call('XDEL', stream, id)
  if not is_held or #entries == 0 then return nil end
  local fields = entries[1][2]
  return { attempts = fields[2], losses = fields[4], envelope = fields[6] }
end

local function has_stream(stream)
  return redis.call('EXISTS', stream) == 1
end

-- What waits for a handler becomes dead letters, so many at most; returns how many did.
local function bury_waiting(handler, most, now)
  local buried = 0
  local function end_it(due, attempts, losses, envelope)
    bury(handler, cjson.decode(envelope)[2], attempts, losses, envelope, 'handler_gone',
      'the handler was taken out of service', now, due)
    buried = buried + 1
  end
  for _, kind in ipairs({ 'ready', 'alone' }) do
    local stream = key(kind, handler)
    while buried < most and has_stream(stream) do
      local read = redis.call('XREADGROUP', 'GROUP', GROUP, 'forget', 'COUNT', most - buried, 'STREAMS', stream, '>')
      if not read then break end
      for _, entry in ipairs(read[1][2]) do
        local held = release(kind, handler, entry[1])
        end_it(0, held.attempts, held.losses, held.envelope)
      end
    end
  end
  for _, kind in ipairs({ 'later', 'retry' }) do
    local queue = key(kind, handler)
    local members = buried < most and redis.call('ZRANGE', queue, 0, most - buried - 1, 'WITHSCORES') or {}
    for place = 1, #members, 2 do
      redis.call('ZREM', queue, members[place])
      end_it(members[place + 1], string.match(members[place], '^(%d+) (%d+) (.*)$'))
    end
  end
  return buried
end

local function wake()
  redis.call('PUBLISH', root .. ':wake', '')
end

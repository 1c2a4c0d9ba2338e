-- ARGV: event, handler, reason ('' for any), limit, id to begin behind, last id ('+inf' for any).
-- Returns the id to look on behind ('' at the end), and at most `limit` letters {id, handler, attempts, losses, envelope,
-- reason, problem, died_at}. Looks at so many only that whoever else waits for Redis does not wait long.
local event, handler, reason, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local found, behind, LOOKED_AT = {}, ARGV[5], 1000
local smallest, size = root .. ':dead', math.huge
for field, value in pairs({ handler = handler, event = event, reason = reason }) do
  local shelf = key('dead:' .. field, value)
  local there = value ~= '' and redis.call('ZCARD', shelf) or math.huge
  if there < size then smallest, size = shelf, there end
end
local ids = redis.call('ZRANGEBYSCORE', smallest, '(' .. behind, ARGV[6], 'LIMIT', 0, LOOKED_AT)
for _, id in ipairs(ids) do
  if #found == limit then return { behind, found } end
  behind = id
  local letter = redis.call('HMGET', key('letter', id), 'h', 'a', 'l', 'e', 'r', 'x', 't', 'n')
  if (event == '' or letter[8] == event) and (handler == '' or letter[1] == handler)
    and (reason == '' or letter[5] == reason) then
    found[#found + 1] = { id, letter[1], letter[2], letter[3], letter[4], letter[5], letter[6], letter[7] }
  end
end
return { #ids == LOOKED_AT and behind or '', found }

-- ARGV: event, handler, reason ('' for any), limit, id to begin behind, last id ('+inf' for any), and, for ids alone, the
-- time of death that all are before (else '').
-- Returns the id to look on behind ('' at the end), and at most `limit` letters {id, handler, attempts, losses, envelope,
-- reason, problem, died_at}. Looks at so many only that whoever else waits for Redis does not wait long.
local event, handler, reason, limit, latest = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[7])
local found, behind, LOOKED_AT = {}, ARGV[5], 1000
local ids = redis.call('ZRANGEBYSCORE', root .. ':dead', '(' .. behind, ARGV[6], 'LIMIT', 0, LOOKED_AT)
for _, id in ipairs(ids) do
  if #found == limit then return { behind, found } end
  behind = id
  local letter = redis.call('HMGET', key('letter', id), 'h', 'n', 'r', 't')
  local is_wanted = (event == '' or letter[2] == event) and (handler == '' or letter[1] == handler)
    and (reason == '' or letter[3] == reason) and (latest == nil or tonumber(letter[4]) < latest)
  if is_wanted and latest then
    found[#found + 1] = id
  elseif is_wanted then
    local rest = redis.call('HMGET', key('letter', id), 'a', 'l', 'e', 'x')
    found[#found + 1] = { id, letter[1], rest[1], rest[2], rest[3], letter[3], rest[4], letter[4] }
  end
end
return { #ids == LOOKED_AT and behind or '', found }

-- ARGV: event, handler, reason ('' for any), limit, id to begin behind, latest time of death ('' for any).
-- Returns letters {id, handler, attempts, losses, envelope, reason, problem, died_at}, one more than the limit if any.
local event, handler, reason, limit, latest = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[6])
local found, behind = {}, ARGV[5]
while true do
  local ids = redis.call('ZRANGEBYSCORE', root .. ':dead', '(' .. behind, '+inf', 'LIMIT', 0, 200)
  if #ids == 0 then return found end
  for _, id in ipairs(ids) do
    local letter = redis.call('HMGET', key('letter', id), 'h', 'a', 'l', 'e', 'r', 'x', 't', 'n')
    local is_wanted = (event == '' or letter[8] == event) and (handler == '' or letter[1] == handler)
      and (reason == '' or letter[5] == reason) and (latest == nil or tonumber(letter[7]) < latest)
    if is_wanted then
      found[#found + 1] = { id, letter[1], letter[2], letter[3], letter[4], letter[5], letter[6], letter[7] }
      if #found > limit then return found end
    end
  end
  behind = ids[#ids]
end

-- ARGV: event, handler, reason ('' for any), how many to look at, place to begin behind ('' at first), time of death that all
-- are before. Returns the place to look on behind ('' at the end), and the ids of those that are wanted.
local event, handler, reason, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local first, last = ARGV[5] == '' and '-' or '(' .. ARGV[5], string.format('(%016.0f', tonumber(ARGV[6]))
local found, places = {}, redis.call('ZRANGEBYLEX', root .. ':dead:age', first, last, 'LIMIT', 0, limit)
for _, place in ipairs(places) do
  local id = string.match(place, ':(%d+)$')
  local letter = redis.call('HMGET', key('letter', id), 'n', 'h', 'r')
  if (event == '' or letter[1] == event) and (handler == '' or letter[2] == handler)
    and (reason == '' or letter[3] == reason) then
    found[#found + 1] = id
  end
end
return { #places == limit and places[#places] or '', found }

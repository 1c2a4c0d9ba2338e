-- ARGV: ids as JSON. Returns how many there were.
local discarded = 0
for _, id in ipairs(cjson.decode(ARGV[1])) do
  if exhume(id) then discarded = discarded + 1 end
end
return discarded

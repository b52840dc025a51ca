-- Finds cores and sessions: one page of a walk over all keys.
-- KEYS: none
-- ARGV: 1 cursor, 2 about how many keys to look at, 3 key prefix
-- Returns: the next cursor ("0" at the end), how many keys there are; then the names of cores and
--          sessions, without the prefix
-- Errors: none
local page = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[3] .. '*', 'COUNT', ARGV[2], 'TYPE', 'hash')
local reply = {page[1], redis.call('DBSIZE')}
for _, key in ipairs(page[2]) do
  local name = string.sub(key, #ARGV[3] + 1)
  if string.match(name, '^ac:[1-9]%d*$')
      or string.match(name, '^[a-z0-9_]+:session:[0-9a-f-]+$') then
    reply[#reply + 1] = name
  end
end
return reply

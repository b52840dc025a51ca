-- Finds cores, sessions and tombstones: one page of a walk over all keys.
-- KEYS: servers, which is not touched: a cluster runs it where the realm is
-- ARGV: 1 cursor, 2 about how many keys to look at, 3 key prefix
-- Returns: the next cursor ("0" at the end), how many keys there are; then the names of cores,
--          sessions and tombstones, without the prefix
-- Errors: none
local cursor, count, prefix = ARGV[1], ARGV[2], ARGV[3]
local page = redis.call('SCAN', cursor, 'MATCH', prefix .. '*', 'COUNT', count)
local next_cursor, keys = page[1], page[2]
local reply = {next_cursor, redis.call('DBSIZE')}
for _, key in ipairs(keys) do
  local name = string.sub(key, #prefix + 1)
  local is_core = string.match(name, '^ac:[1-9]%d*$')
  local is_session = string.match(name, '^[a-z0-9_]+:session:[0-9a-f-]+$')
  local is_tombstone = string.match(name, '^statesync:evicted:[0-9a-f-]+$')
  if is_core or is_session or is_tombstone then reply[#reply + 1] = name end
end
return reply

-- Gives the comparison back, so that another worker goes on with it at once.
-- Uses: at_maxmemory, types
-- KEYS: 1 servers
-- ARGV: 1 token
-- Returns: nothing
-- Errors: WRONGTYPE with the key's number
local servers, token = KEYS[1], ARGV[1]
local refused = type_error(1, 'hash')
if refused then return refused end
if redis.call('HGET', servers, 'comparer') == token then
  redis.call('HDEL', servers, 'comparer', 'comparer_until')
end

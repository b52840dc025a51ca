-- Removes a quarantine entry. The character's data in Redis is not touched.
-- Uses: types
-- KEYS: 1 quarantine, 2 dirty, 3 claimed, 4 since
-- ARGV: 1 the entry's name: a char_id, or what was taken for one
-- Returns: 1 if it was in quarantine, else 0
-- Errors: WRONGTYPE with the key's number
local quarantine, dirty, claimed, since = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name = ARGV[1]
local refused = marks_error(1, 'hash', 'set', 'zset', 'zset')
if refused then return refused end
if redis.call('SISMEMBER', dirty, name) == 0 and not redis.call('ZSCORE', claimed, name) then
  redis.call('ZREM', since, name)
end
return redis.call('HDEL', quarantine, name)

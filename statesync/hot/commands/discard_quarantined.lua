-- Forgets a quarantine entry. The character's data in Redis is not touched.
-- KEYS: 1 quarantine, 2 dirty, 3 claimed, 4 since
-- ARGV: 1 the entry's name, a char_id or what somebody took for one
-- Returns: 1 if it was in quarantine, else 0
-- Errors: none
if redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 0 and not redis.call('ZSCORE', KEYS[3], ARGV[1]) then
  redis.call('ZREM', KEYS[4], ARGV[1])
end
return redis.call('HDEL', KEYS[1], ARGV[1])

-- Forgets a quarantine entry. The character's data in Redis is not touched.
-- KEYS: 1 quarantine
-- ARGV: 1 the entry's name, a char_id or what somebody took for one
-- Returns: 1 if it was in quarantine, else 0
-- Errors: none
return redis.call('HDEL', KEYS[1], ARGV[1])

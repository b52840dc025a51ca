-- Reads a part of a session's log.
-- KEYS: 1 log
-- ARGV: 1 index of the first entry, 2 index of the last
-- Returns: the entries
-- Errors: WRONGTYPE
return redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2])

-- Reads a part of a session's log.
-- KEYS: 1 log
-- ARGV: 1 index of the first entry, 2 index of the last
-- Returns: the entries
-- Errors: WRONGTYPE
local log = KEYS[1]
local start, stop = ARGV[1], ARGV[2]
return redis.call('LRANGE', log, start, stop)

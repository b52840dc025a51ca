-- Notes that a scrub has come to its end.
-- Uses: at_maxmemory, clock
-- KEYS: 1 scrubbed
-- ARGV: none
-- Returns: nothing
-- Errors: none
local scrubbed = KEYS[1]
redis.call('SET', scrubbed, integer(now_ms()))

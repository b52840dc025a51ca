-- Notes that the schedule works: a sweep that it sent has arrived.
-- Uses: at_maxmemory, clock
-- KEYS: 1 heartbeat
-- ARGV: none
-- Returns: nothing
-- Errors: none
local heartbeat = KEYS[1]
redis.call('SET', heartbeat, integer(now_ms()))

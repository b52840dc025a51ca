-- Notes that the schedule works: a sweep that it sent has arrived.
-- KEYS: 1 heartbeat
-- ARGV: none
-- Returns: nothing
-- Errors: none
local time = redis.call('TIME')
redis.call('SET', KEYS[1], string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))

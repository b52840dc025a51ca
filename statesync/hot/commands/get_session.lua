-- Reads a session.
-- KEYS: 1 session, 2 log
-- ARGV: none
-- Returns: the length of its log, then field, value, …; only the length where there is no session
-- Errors: WRONGTYPE
local reply = redis.call('HGETALL', KEYS[1])
table.insert(reply, 1, redis.call('LLEN', KEYS[2]))
return reply

-- Reads a session.
-- KEYS: 1 session, 2 log
-- ARGV: none
-- Returns: the length of its log, then field, value, …; only the length if there is no session
-- Errors: WRONGTYPE
local session, log = KEYS[1], KEYS[2]
local reply = redis.call('HGETALL', session)
table.insert(reply, 1, redis.call('LLEN', log))
return reply

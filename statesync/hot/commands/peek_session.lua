-- Reads of a session whether it is live, and its version.
-- KEYS: 1 session
-- ARGV: none
-- Returns: its version, 0 if it has none; -1 if the session is gone
-- Errors: none
local session = KEYS[1]
if redis.call('EXISTS', session) == 0 then return -1 end
return tonumber(redis.call('HGET', session, 'version') or '') or 0

-- Looks at a session: is it live, and what is its version?
-- KEYS: 1 session
-- ARGV: none
-- Returns: its version, 0 where it has none; -1 where the session is gone
-- Errors: none
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
return tonumber(redis.call('HGET', KEYS[1], 'version') or '') or 0

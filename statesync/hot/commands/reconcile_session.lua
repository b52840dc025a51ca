-- Raises a session's version to what PostgreSQL holds.
-- KEYS: 1 session
-- ARGV: 1 the row's version
-- Returns: 1, or 0 where the session is gone
-- Errors: none
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local version = tonumber(redis.call('HGET', KEYS[1], 'version') or '') or 0
if version < tonumber(ARGV[1]) then redis.call('HSET', KEYS[1], 'version', ARGV[1]) end
return 1

-- Brings a core up to what PostgreSQL holds: raises its version and adds the fields it lacks.
-- KEYS: 1 core
-- ARGV: 1 the row's version, then field, value, field, value, …
-- Returns: 1, or 0 where the core is gone
-- Errors: none
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local version = tonumber(redis.call('HGET', KEYS[1], 'version') or '') or 0
if version < tonumber(ARGV[1]) then redis.call('HSET', KEYS[1], 'version', ARGV[1]) end
for i = 2, #ARGV, 2 do redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1

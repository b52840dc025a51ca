-- Restores a core from PostgreSQL, only where it is absent. A row that was read before the
-- character was played, saved and evicted again is refused: it is older than the eviction.
-- KEYS: 1 core, 2 evicted
-- ARGV: 1 the row's version, then field, value, field, value, …
-- Returns: "restored", "live" or "stale"
-- Errors: none
if redis.call('EXISTS', KEYS[1]) == 1 then return 'live' end
local evicted = redis.call('GET', KEYS[2])
if evicted and tonumber(evicted) > tonumber(ARGV[1]) then return 'stale' end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'saved_version', ARGV[1])
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 'restored'

-- Deletes a core, only if all of it is saved: its version is the saved one, nothing marked it
-- since (a bare writer marks without raising the version) and no claim on it is out.
-- Remembers the version for as long as a slow restore may still hold an older row.
-- KEYS: 1 core, 2 dirty, 3 claimed, 4 since, 5 evicted
-- ARGV: 1 char_id, 2 ms to remember
-- Returns: 1 if the core is gone, 0 if it has unsaved changes
-- Errors: none
if redis.call('EXISTS', KEYS[1]) == 0 then return 1 end
local version = redis.call('HGET', KEYS[1], 'version')
if not version or version ~= redis.call('HGET', KEYS[1], 'saved_version') then return 0 end
if redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 1 then return 0 end
if redis.call('ZSCORE', KEYS[3], ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('SET', KEYS[5], version, 'PX', ARGV[2])
return 1

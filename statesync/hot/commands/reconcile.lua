-- Brings a core or a session up to its row: raises its version and adds the fields it lacks.
-- KEYS: 1 core or session
-- ARGV: 1 the row's version, then field, value, field, value, …
-- Returns: 1, or 0 if it is gone
-- Errors: none
local hash = KEYS[1]
local row_version = ARGV[1]
if redis.call('EXISTS', hash) == 0 then return 0 end
local version = tonumber(redis.call('HGET', hash, 'version') or '') or 0
if version < tonumber(row_version) then redis.call('HSET', hash, 'version', row_version) end
for i = 2, #ARGV, 2 do
  local field, value = ARGV[i], ARGV[i + 1]
  redis.call('HSETNX', hash, field, value)
end
return 1

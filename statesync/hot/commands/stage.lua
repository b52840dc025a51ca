-- Stores a part of a log that is being restored, beside the key where it will be.
-- KEYS: 1 staged
-- ARGV: 1 how many entries came before, 2 ms to keep it, then the entries
-- Returns: how many entries there are
-- Errors: none
local staged = KEYS[1]
local entries_before, staged_ms = tonumber(ARGV[1]), ARGV[2]
if redis.call('LLEN', staged) == entries_before then
  redis.call('RPUSH', staged, unpack(ARGV, 3))
end
redis.call('PEXPIRE', staged, staged_ms)
return redis.call('LLEN', staged)

-- Lays down a part of a log that is being restored, beside the place where it will be.
-- KEYS: 1 staged
-- ARGV: 1 how many entries came before, 2 ms to keep it, then the entries
-- Returns: how many entries there are
-- Errors: none
if redis.call('LLEN', KEYS[1]) == tonumber(ARGV[1]) then
  redis.call('RPUSH', KEYS[1], unpack(ARGV, 3))
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return redis.call('LLEN', KEYS[1])

-- Puts claimed characters back into the dirty set: those whose lease has ended, or any.
-- Uses: clock
-- KEYS: 1 dirty, 2 claimed
-- ARGV: 1 how many at the most, 2 1 for any, else 0
-- Returns: how many were put back
-- Errors: none
local dirty, claimed = KEYS[1], KEYS[2]
local limit, include_unexpired = ARGV[1], ARGV[2] == '1'
local latest = include_unexpired and '+inf' or integer(now_us())
local char_ids = redis.call('ZRANGEBYSCORE', claimed, '-inf', latest, 'LIMIT', 0, limit)
for _, char_id in ipairs(char_ids) do
  redis.call('SADD', dirty, char_id)
  redis.call('ZREM', claimed, char_id)
end
return #char_ids

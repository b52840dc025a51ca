-- Puts characters whose lease has ended back into the dirty set.
-- KEYS: 1 dirty, 2 claimed
-- ARGV: 1 how many at the most
-- Returns: how many were put back
-- Errors: none
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
local ids = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(ids) do
  redis.call('SADD', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
end
return #ids

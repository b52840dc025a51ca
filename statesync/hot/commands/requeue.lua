-- Puts claimed characters back into the dirty set: those whose lease has ended, or any.
-- KEYS: 1 dirty, 2 claimed
-- ARGV: 1 how many at the most, 2 1 for any, else 0
-- Returns: how many were put back
-- Errors: none
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
local last = ARGV[2] == '1' and '+inf' or now
local ids = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', last, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(ids) do
  redis.call('SADD', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
end
return #ids

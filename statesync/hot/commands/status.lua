-- Reads how much is unsaved, since when, and the shared counters.
-- KEYS: 1 dirty, 2 claimed, 3 since, 4 quarantine, 5 stats
-- ARGV: none
-- Returns: dirty, claimed, expired, quarantined, ms of the oldest unsaved change or "", now in ms,
--          then counter, value, …
-- Errors: none
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local oldest = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
local reply = {
  redis.call('SCARD', KEYS[1]), redis.call('ZCARD', KEYS[2]),
  redis.call('ZCOUNT', KEYS[2], '-inf', string.format('%.0f', now)),
  redis.call('HLEN', KEYS[4]), oldest[2] or '', string.format('%.0f', math.floor(now / 1000))}
for _, item in ipairs(redis.call('HGETALL', KEYS[5])) do reply[#reply + 1] = item end
return reply

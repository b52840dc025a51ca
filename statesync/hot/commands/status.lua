-- Reads how much is unsaved, since when, and the shared counters.
-- Uses: clock, types
-- KEYS: 1 dirty, 2 claimed, 3 since, 4 quarantine, 5 stats, 6 servers
-- ARGV: none
-- Returns: dirty, claimed, expired, quarantined, ms of the oldest unsaved change or "", now in ms;
--          as 1 or 0 whether everything live is being compared, a loss of Redis settled, PostgreSQL
--          recovered; then counter, value, …
-- Errors: WRONGTYPE with the key's number
local dirty, claimed, since, quarantine, stats, servers =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local refused = marks_error(1, 'set', 'zset', 'zset', 'hash', 'hash', 'hash')
if refused then return refused end
local now = now_us()
-- Another writer's infinite score is no time.
local oldest = redis.call(
  'ZRANGEBYSCORE', since, '(-inf', '(+inf', 'WITHSCORES', 'LIMIT', 0, 1)
local reply = {
  redis.call('SCARD', dirty), redis.call('ZCARD', claimed),
  redis.call('ZCOUNT', claimed, '-inf', integer(now)), redis.call('HLEN', quarantine),
  oldest[2] or '', integer(math.floor(now / 1000)),
  redis.call('HEXISTS', servers, 'comparing'), redis.call('HEXISTS', servers, 'settling'),
  redis.call('HEXISTS', servers, 'recovering')}
for _, part in ipairs(redis.call('HGETALL', stats)) do reply[#reply + 1] = part end
return reply

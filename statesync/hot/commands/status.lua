-- Reads how much is unsaved, since when, and the shared counters.
-- Uses: clock, types
-- KEYS: 1 dirty, 2 claimed, 3 since, 4 quarantine, 5 stats, 6 servers
-- ARGV: none
-- Returns: dirty, claimed, expired, quarantined, ms of the oldest unsaved change or "" (of the
--          characters in quarantine none counts), now in ms;
--          as 1 or 0 whether everything live is being compared, a loss of Redis settled, PostgreSQL
--          recovered; then counter, value, …
-- Errors: WRONGTYPE with the key's number
local dirty, claimed, since, quarantine, stats, servers =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local refused = marks_error(1, 'set', 'zset', 'zset', 'hash', 'hash', 'hash')
if refused then return refused end
-- What is in quarantine waits for people, not for a sweep. So first the oldest are looked at; if
-- these are in quarantine, the oldest of 500 marks and 500 claims: of all, if there are no more.
local MOST = 500
local function oldest_of(names)
  local oldest = math.huge
  for _, name in ipairs(names) do
    local at_ms = tonumber(redis.call('ZSCORE', since, name) or '')
    local waits = at_ms and at_ms > -math.huge and redis.call('HEXISTS', quarantine, name) == 0
    if waits then oldest = math.min(oldest, at_ms) end
  end
  return oldest
end

local function oldest_waiting()
  local page = redis.call('HLEN', quarantine) == 0 and 1 or 50
  for first = 0, MOST - page, page do
    -- Another writer's infinite score is no time.
    local found = redis.call(
      'ZRANGEBYSCORE', since, '(-inf', '(+inf', 'WITHSCORES', 'LIMIT', first, page)
    for i = 1, #found, 2 do
      if redis.call('HEXISTS', quarantine, found[i]) == 0 then return found[i + 1] end
    end
    if #found < 2 * page then return '' end
  end
  local oldest = math.min(
    oldest_of(redis.call('SRANDMEMBER', dirty, MOST)),
    oldest_of(redis.call('ZRANGE', claimed, 0, MOST - 1)))
  return oldest < math.huge and string.format('%.17g', oldest) or ''
end

local now = now_us()
local reply = {
  redis.call('SCARD', dirty), redis.call('ZCARD', claimed),
  redis.call('ZCOUNT', claimed, '-inf', integer(now)), redis.call('HLEN', quarantine),
  oldest_waiting(), integer(math.floor(now / 1000)),
  redis.call('HEXISTS', servers, 'comparing'), redis.call('HEXISTS', servers, 'settling'),
  redis.call('HEXISTS', servers, 'recovering')}
for _, part in ipairs(redis.call('HGETALL', stats)) do reply[#reply + 1] = part end
return reply

-- Claims one character, dirty or not, for a direct backup; an older claim on it is superseded.
-- Uses: at_maxmemory, clock, types
-- KEYS: 1 dirty, 2 claimed, 3 since
-- ARGV: 1 char_id, 2 lease in µs
-- Returns: the claim's token, and 1 if the character was dirty, or claimed as a dirty one, else 0
-- Errors: WRONGTYPE with the key's number
local dirty, claimed, since = KEYS[1], KEYS[2], KEYS[3]
local char_id, lease_us = ARGV[1], tonumber(ARGV[2])

local now = now_us()
local token = now + lease_us
local refused = marks_error(1, 'set', 'zset', 'zset')
if refused then return refused end
local was_dirty = redis.call('SREM', dirty, char_id)
local before = redis.call('ZSCORE', claimed, char_id)
if before then
  if redis.call('ZSCORE', since, char_id) then was_dirty = 1 end
  token = math.max(token, before + 1)
end
redis.call('ZADD', claimed, integer(token), char_id)
if was_dirty == 1 then
  redis.call('ZADD', since, 'NX', integer(math.floor(now / 1000)), char_id)
end
return {integer(token), was_dirty}

-- Claims one character, dirty or not, for a direct backup; an older claim on it is superseded.
-- KEYS: 1 dirty, 2 claimed, 3 since
-- ARGV: 1 char_id, 2 lease in µs
-- Returns: the claim's token, and 1 if the character was dirty, or claimed as a dirty one, else 0
-- Errors: none
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local known = redis.call('SREM', KEYS[1], ARGV[1])
local token = now + ARGV[2]
local held = redis.call('ZSCORE', KEYS[2], ARGV[1])
if held then
  if redis.call('ZSCORE', KEYS[3], ARGV[1]) then known = 1 end
  token = math.max(token, held + 1)
end
redis.call('ZADD', KEYS[2], string.format('%.0f', token), ARGV[1])
if known == 1 then
  redis.call('ZADD', KEYS[3], 'NX', string.format('%.0f', math.floor(now / 1000)), ARGV[1])
end
return {string.format('%.0f', token), known}

-- Reads how the server is set up, what its clock says, and which of some cores would expire.
-- Uses: clock
-- KEYS: 1 heartbeat, then the cores
-- ARGV: none
-- Returns: what INFO says, now in µs, ms since the last heartbeat or "", then 1 for each core that
--          expires, else 0
-- Errors: none
local heartbeat = KEYS[1]
local now, last_ms = now_us(), tonumber(redis.call('GET', heartbeat) or '')
local reply = {
  redis.call('INFO'), integer(now), last_ms and integer(now / 1000 - last_ms) or ''}
for i = 2, #KEYS do
  local expires = redis.call('PTTL', KEYS[i]) >= 0
  reply[#reply + 1] = expires and 1 or 0
end
return reply

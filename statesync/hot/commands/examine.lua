-- Reads how the server is set up, what its clock says, and which of some cores would expire.
-- Uses: clock
-- KEYS: 1 heartbeat, 2 servers, then the cores
-- ARGV: none
-- Returns: what INFO says, now in µs, ms since the last heartbeat or "", how much memory was used
--          ("at_ms bytes", or ""), then 1 for each core that expires, else 0
-- Errors: none
local heartbeat, servers = KEYS[1], KEYS[2]
local now, noted = now_us(), redis.pcall('GET', heartbeat)
local last_ms = type(noted) == 'string' and tonumber(noted)
local is_time = last_ms and math.abs(last_ms) < math.huge -- others may have put anything there
local notes = redis.pcall('HMGET', servers, 'memory_before', 'memory') -- an error has no items
local reply = {
  redis.call('INFO'), integer(now), is_time and integer(now / 1000 - last_ms) or '',
  notes[1] or notes[2] or ''}
for i = 3, #KEYS do
  local expires = redis.call('PTTL', KEYS[i]) >= 0
  reply[#reply + 1] = expires and 1 or 0
end
return reply

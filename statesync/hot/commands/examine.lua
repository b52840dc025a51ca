-- Reads how the server is set up, what its clock says, and which of some cores would expire.
-- Uses: clock
-- KEYS: 1 servers, then the cores
-- ARGV: none
-- Returns: what INFO says, now in µs, how much memory was used ("at_ms bytes", or ""), then 1 for each
--          core that expires, else 0
-- Errors: none
local servers = KEYS[1]
local notes = redis.pcall('HMGET', servers, 'memory_before', 'memory') -- an error has no items
local reply = {redis.call('INFO'), integer(now_us()), notes[1] or notes[2] or ''}
for i = 2, #KEYS do
  local expires = redis.call('PTTL', KEYS[i]) >= 0
  reply[#reply + 1] = expires and 1 or 0
end
return reply

-- Reads how the server is set up, what its clock says, and which of some cores would expire.
-- KEYS: 1 heartbeat, then the cores
-- ARGV: none
-- Returns: what INFO says, now in µs, ms since the last heartbeat or "", then 1 for each core that
--          expires, else 0
-- Errors: none
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local last = tonumber(redis.call('GET', KEYS[1]) or '')
local reply = {redis.call('INFO'), string.format('%.0f', now),
  last and string.format('%.0f', now / 1000 - last) or ''}
for i = 2, #KEYS do reply[2 + i] = redis.call('PTTL', KEYS[i]) >= 0 and 1 or 0 end
return reply

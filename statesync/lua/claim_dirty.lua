-- Moves some dirty characters to the claimed ones: one step of a sweep over the dirty set.
-- A character whose claim is still out stays dirty until that backup is acknowledged, so that
-- sweeps that come faster than saves cannot supersede each other for ever. What is no character
-- id goes to quarantine, so that it cannot block the queue.
-- KEYS: 1 dirty, 2 claimed, 3 since, 4 quarantine
-- ARGV: 1 lease in µs, 2 most claims in flight, 3 cursor of the sweep, 4 about how many to look at
-- Returns: the next cursor ("0" at the end), then char_id, token, char_id, token, …
-- Errors: none
local room = ARGV[2] - redis.call('ZCARD', KEYS[2])
if room <= 0 then return {'0'} end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local token = string.format('%.0f', now + ARGV[1])
local now_ms = string.format('%.0f', math.floor(now / 1000))
local page = redis.call('SSCAN', KEYS[1], ARGV[3], 'COUNT', ARGV[4])
local reply = {page[1]}
for _, id in ipairs(page[2]) do
  local is_id = string.match(id, '^[1-9]%d*$')
    and (#id < 19 or (#id == 19 and id <= '9223372036854775807'))
  if not is_id then
    local at = now / 1000000
    redis.call('SREM', KEYS[1], id)
    redis.call('ZREM', KEYS[3], id)
    redis.call('HSET', KEYS[4], id, cjson.encode({
      error = 'not a character id: it must be an integer from 1 to 2^63-1',
      field = cjson.null, attempts = 1, first_at = at, last_at = at}))
  elseif room > 0 and not redis.call('ZSCORE', KEYS[2], id)
      and redis.call('SREM', KEYS[1], id) == 1 then
    redis.call('ZADD', KEYS[2], token, id)
    redis.call('ZADD', KEYS[3], 'NX', now_ms, id)
    reply[#reply + 1] = id
    reply[#reply + 1] = token
    room = room - 1
  end
end
return reply

-- Moves some dirty characters to the claimed ones: one step of a pass over the dirty set. Where the
-- pass stands is kept, so that sweeps that follow each other, or run side by side, share one pass;
-- each beginning anew would look at what the others have emptied.
-- A character whose claim is still out stays dirty until that backup is acknowledged, so that
-- sweeps that come faster than saves cannot supersede each other for ever. What is no character
-- id goes to quarantine, so that it cannot block the queue.
-- KEYS: 1 dirty, 2 claimed, 3 since, 4 quarantine, 5 the pass
-- ARGV: 1 lease in µs, 2 most claims in flight, 3 about how many to look at
-- Returns: number of the pass and its cursor before this step, number of the pass afterwards, or
--          "full" where no more may be in flight; then char_id, token, char_id, token, …
-- Errors: none
local pass = redis.call('HMGET', KEYS[5], 'number', 'cursor')
local number, cursor = pass[1] or '0', pass[2] or '0'
local room = ARGV[2] - redis.call('ZCARD', KEYS[2])
if room <= 0 then return {number, cursor, 'full'} end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local token = string.format('%.0f', now + ARGV[1])
local now_ms = string.format('%.0f', math.floor(now / 1000))
local page = redis.call('SSCAN', KEYS[1], cursor, 'COUNT', ARGV[3])
local reply = {number, cursor, number}

local function quarantine(id)
  local at = now / 1000000
  redis.call('SREM', KEYS[1], id)
  redis.call('ZREM', KEYS[3], id)
  redis.call('HSET', KEYS[4], id, cjson.encode({
    error = 'not a character id: it must be an integer from 1 to 2^63-1',
    field = cjson.null, attempts = 1, first_at = at, last_at = at}))
end

local ids, seen = {}, {}
for _, id in ipairs(page[2]) do
  local is_id = string.match(id, '^[1-9]%d*$')
    and (#id < 19 or (#id == 19 and id <= '9223372036854775807'))
  if not is_id then
    quarantine(id)
  elseif not seen[id] then
    seen[id] = true
    ids[#ids + 1] = id
  end
end

local full = false
for from = 1, #ids, 500 do -- as many as can be unpacked
  local to = math.min(from + 499, #ids)
  local held = redis.call('ZMSCORE', KEYS[2], unpack(ids, from, to))
  local new, claims, since = {}, {}, {}
  for i = from, to do
    if not held[i - from + 1] and not full then
      full = room == 0
      if not full then
        room = room - 1
        local n = #new
        new[n + 1], reply[#reply + 1], reply[#reply + 2] = ids[i], ids[i], token
        claims[2 * n + 1], claims[2 * n + 2] = token, ids[i]
        since[2 * n + 1], since[2 * n + 2] = now_ms, ids[i]
      end
    end
  end
  if #new > 0 then
    redis.call('SREM', KEYS[1], unpack(new))
    redis.call('ZADD', KEYS[2], unpack(claims))
    redis.call('ZADD', KEYS[3], 'NX', unpack(since))
  end
end
if full then
  reply[3] = 'full' -- the rest of this page comes next
elseif page[1] == '0' then
  reply[3] = redis.call('HINCRBY', KEYS[5], 'number', 1)
  redis.call('HDEL', KEYS[5], 'cursor')
else
  redis.call('HSET', KEYS[5], 'cursor', page[1])
end
return reply

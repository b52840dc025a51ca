-- Marks a character dirty, and notes since when it is, unless that is known.
local function mark(dirty, since, char_id)
  if redis.call('SADD', dirty, char_id) == 1 then
    local time = redis.call('TIME')
    local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
    redis.call('ZADD', since, 'NX', now_ms, char_id)
  end
end

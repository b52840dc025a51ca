-- Marks a character dirty, and notes since when it is, unless that is known.
local function mark(dirty, since, char_id)
  if redis.call('SADD', dirty, char_id) == 1 then
    redis.call('ZADD', since, 'NX', now_ms(), char_id)
  end
end

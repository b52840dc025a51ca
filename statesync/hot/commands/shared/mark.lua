-- Marks a character dirty.
local function mark(dirty, since, id)
  if redis.call('SADD', dirty, id) == 1 then
    local time = redis.call('TIME')
    redis.call('ZADD', since, 'NX', time[1] * 1000 + math.floor(time[2] / 1000), id)
  end
end

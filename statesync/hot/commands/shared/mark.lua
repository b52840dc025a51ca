-- Marks a character dirty, and notes since when it is, unless that is known. If the change has a
-- nonce, the character's next snapshot takes it along, and the commit of that writes it down.
local function mark(dirty, since, char_id, nonces, nonce)
  if redis.call('SADD', dirty, char_id) == 1 then
    local time = redis.call('TIME')
    local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
    redis.call('ZADD', since, 'NX', now_ms, char_id)
  end
  if not nonce then return end
  local before = redis.call('HGET', nonces, char_id)
  if not before then
    redis.call('HSET', nonces, char_id, nonce)
  elseif not string.find(before, nonce, 1, true) then
    redis.call('HSET', nonces, char_id, before .. ' ' .. nonce)
  end
end

-- Creates the core of a new character and marks it dirty.
-- Sent twice it does no harm: what the first run made counts as created.
-- KEYS: 1 core, 2 dirty, 3 since
-- ARGV: 1 char_id, then field, value, field, value, …
-- Returns: the version, 1
-- Errors: EXISTS
if redis.call('EXISTS', KEYS[1]) == 1 then
  local same = redis.call('TYPE', KEYS[1]).ok == 'hash'
    and redis.call('HGET', KEYS[1], 'version') == '1'
    and redis.call('HLEN', KEYS[1]) == (#ARGV - 1) / 2 + 1
  for i = 2, #ARGV, 2 do
    same = same and redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1]
  end
  if not same then return redis.error_reply('EXISTS') end
end
redis.call('HSET', KEYS[1], 'version', 1, unpack(ARGV, 2))
if redis.call('SADD', KEYS[2], ARGV[1]) == 1 then
  local now = redis.call('TIME')
  redis.call('ZADD', KEYS[3], 'NX', now[1] * 1000 + math.floor(now[2] / 1000), ARGV[1])
end
return 1

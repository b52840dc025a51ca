-- Writes fields of a loaded character, raises its version and marks it dirty.
-- With no fields it only marks.
-- KEYS: 1 core, 2 dirty, 3 since
-- ARGV: 1 char_id, then field, value, field, value, …
-- Returns: the new version
-- Errors: NOTLOADED, BADVERSION, WRONGTYPE
if redis.call('EXISTS', KEYS[1]) == 0 then return redis.error_reply('NOTLOADED') end
local version = redis.pcall('HINCRBY', KEYS[1], 'version', 1)
if type(version) ~= 'number' then
  -- Anything else, such as being out of memory, is the server's trouble and no character's.
  local bad = string.find(version.err, 'not an integer') or string.find(version.err, 'overflow')
  return bad and redis.error_reply('BADVERSION') or version
end
if #ARGV > 1 then redis.call('HSET', KEYS[1], unpack(ARGV, 2)) end
if redis.call('SADD', KEYS[2], ARGV[1]) == 1 then
  local now = redis.call('TIME')
  redis.call('ZADD', KEYS[3], 'NX', now[1] * 1000 + math.floor(now[2] / 1000), ARGV[1])
end
return version

-- Ends claims, those whose lease has ended or any. Characters with unsaved changes go back into the
-- dirty set; so does what is no character id, to be named. A character that was claimed clean stays
-- clean: dirty again, it would count as lost if it is logged out by now.
-- Uses: at_maxmemory, clock, types, ids
-- KEYS: 1 dirty, 2 claimed, 3 since
-- ARGV: 1 how many at the most, 2 1 for any, else 0
-- Returns: how many were put back; then the char_ids of the clean ones
-- Errors: WRONGTYPE with the key's number
local dirty, claimed, since = KEYS[1], KEYS[2], KEYS[3]
local limit, include_unexpired = ARGV[1], ARGV[2] == '1'
local refused = marks_error(1, 'set', 'zset', 'zset')
if refused then return refused end
local latest = include_unexpired and '+inf' or integer(now_us())
local reply = {0}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', claimed, '-inf', latest, 'LIMIT', 0, limit)) do
  if is_char_id(name) and not redis.call('ZSCORE', since, name) then
    reply[#reply + 1] = name
  else
    redis.call('SADD', dirty, name)
    reply[1] = reply[1] + 1
  end
  redis.call('ZREM', claimed, name)
end
return reply

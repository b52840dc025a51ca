-- Removes all that Redis holds of a deleted character: its core, its marks, whatever claim is out
-- on it, and of the sessions given those that name nobody else. A restore that read rows from before the
-- deletion cannot bring any of it back.
-- KEYS: 1 core, 2 dirty, 3 claimed, 4 since, 5 quarantine, 6 evicted; then the sessions, their
--       logs, their evicted
-- ARGV: 1 char_id, 2 ms to remember, 3 the highest version there can be
-- Returns: 1 if the core was there, else 0
-- Errors: none
local sessions = (#KEYS - 6) / 3
for i = 7, 6 + sessions do
  local list = redis.pcall('HGET', KEYS[i], 'participants') or ''
  local goes = type(list) == 'string' and redis.call('EXISTS', KEYS[i]) == 1
  if goes then
    for id in string.gmatch(list, '%d+') do goes = goes and id == ARGV[1] end
  end
  if goes then
    redis.call('DEL', KEYS[i], KEYS[i + sessions])
    redis.call('SET', KEYS[i + 2 * sessions], ARGV[3], 'PX', ARGV[2])
  end
end
redis.call('SREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('HDEL', KEYS[5], ARGV[1])
redis.call('SET', KEYS[6], ARGV[3], 'PX', ARGV[2])
return redis.call('DEL', KEYS[1])

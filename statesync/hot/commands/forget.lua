-- Removes all that Redis holds of a deleted character: its core, its marks, any claim on it, and
-- those of the given sessions that name no other character. A restore that read rows from before
-- the deletion cannot bring any of it back.
-- Uses: types, keys
-- KEYS: 1 core, 2 dirty, 3 claimed, 4 since, 5 quarantine, 6 tombstone, 7 seals, 8 nonces; then the
--       sessions, their logs, their tombstones
-- ARGV: 1 char_id, 2 ms for the tombstones, 3 the highest version there can be; then the sessions'
--       ids
-- Returns: 1 if the core was there, else 0
-- Errors: WRONGTYPE with the key's number
local core, dirty, claimed, since, quarantine, tombstone, seals, nonces =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local char_id, tombstone_ms, highest_version = ARGV[1], ARGV[2], ARGV[3]
local next_keys, count = keys_after(8), (#KEYS - 8) / 3
local sessions, logs, tombstones = next_keys(count), next_keys(count), next_keys(count)

local function names_no_other(session)
  local participants = redis.pcall('HGET', session, 'participants') or ''
  if type(participants) ~= 'string' then return false end
  for id in string.gmatch(participants, '%d+') do
    if id ~= char_id then return false end
  end
  return true
end

local refused = marks_error(2, 'set', 'zset', 'zset', 'hash') or marks_error(7, 'hash', 'hash')
if refused then return refused end
for i, session in ipairs(sessions) do
  if redis.call('EXISTS', session) == 1 and names_no_other(session) then
    redis.call('DEL', session, logs[i])
    redis.call('HDEL', seals, ARGV[3 + i])
    redis.call('SET', tombstones[i], highest_version, 'PX', tombstone_ms)
  end
end
redis.call('SREM', dirty, char_id)
redis.call('ZREM', claimed, char_id)
redis.call('ZREM', since, char_id)
redis.call('HDEL', quarantine, char_id)
redis.call('HDEL', seals, char_id)
redis.call('HDEL', nonces, char_id)
redis.call('SET', tombstone, highest_version, 'PX', tombstone_ms)
return redis.call('DEL', core)

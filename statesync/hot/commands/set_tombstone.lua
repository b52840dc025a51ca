-- Says whether a character is in Redis, and sets its tombstone if it is not: no restore brings in a
-- row that is older than it. For one that goes to another realm, or comes from there.
-- Uses: types
-- KEYS: 1 core, 2 dirty, 3 claimed, 4 quarantine, 5 tombstone, 6 servers
-- ARGV: 1 char_id, 2 the version, or "" to set nothing, 3 ms for the tombstone; then the reference fields
-- Returns: "absent"; else why nothing is set: "tied", "in_session", "live" or "unsaved"
-- Errors: WENTBACK; WRONGTYPE with the key's number
local core, dirty, claimed, quarantine, tombstone, servers =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local char_id, version, tombstone_ms = ARGV[1], ARGV[2], ARGV[3]

local refused = marks_error(1, 'hash', 'set', 'zset', 'hash', 'string', 'hash')
if refused then return refused end
if redis.call('HEXISTS', servers, 'recovering') == 1 then return redis.error_reply('WENTBACK') end
if redis.call('EXISTS', core) == 1 then
  if (redis.call('HGET', core, 'statesync:tie') or '') ~= '' then return 'tied' end
  for i = 4, #ARGV do
    if (redis.call('HGET', core, ARGV[i]) or '') ~= '' then return 'in_session' end
  end
  return 'live'
end
if redis.call('SISMEMBER', dirty, char_id) == 1 or redis.call('ZSCORE', claimed, char_id)
  or redis.call('HEXISTS', quarantine, char_id) == 1 then
  return 'unsaved'
end
if version ~= '' then redis.call('SET', tombstone, version, 'PX', tombstone_ms) end
return 'absent'

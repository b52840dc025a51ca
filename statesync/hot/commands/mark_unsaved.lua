-- Marks a character of which nobody knows whether it is saved: its worker has died, or given it back.
-- Or whose core is not the saved one although nothing says so: its mark was lost, or a bare writer
-- forgot it. Or whose session is known not to be the saved one, if the core still
-- points at it. Or whose core was found not to be as its row, if it is still as it was then. A
-- character that is dirty, claimed or quarantined is left alone.
-- Uses: at_maxmemory, types, mark
-- KEYS: 1 core, 2 dirty, 3 claimed, 4 since, 5 quarantine, 6 seals
-- ARGV: 1 char_id; and, if it was compared with its row: 2 the reference field of an unsaved session
--       or "", 3 the session's id or ""; and of a core that is not as its row: 4 version,
--       5 saved_version, 6 its entry of seals, "" for what it lacks
-- Returns: 1 if it was marked, else 0
-- Errors: WRONGTYPE with the key's number
local core, dirty, claimed, since, quarantine = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local seals = KEYS[6]
local char_id, field, session_id = ARGV[1], ARGV[2], ARGV[3]
local is_compared = field ~= nil

local refused = marks_error(2, 'set', 'zset', 'zset', 'hash') or type_error(6, 'hash')
if refused then return refused end
if redis.call('EXISTS', core) == 0 then return 0 end
local values = redis.pcall('HMGET', core, 'version', 'saved_version', field or '')
if values.err then return 0 end
local version, saved_version, reference = unpack(values)
local is_saved = is_compared and saved_version and version == saved_version
if is_saved and ARGV[4] == version and ARGV[5] == saved_version then
  is_saved = (redis.call('HGET', seals, char_id) or '') ~= ARGV[6]
end
if is_saved and (field == '' or reference ~= session_id) then return 0 end
if redis.call('SISMEMBER', dirty, char_id) == 1 or redis.call('ZSCORE', claimed, char_id)
    or redis.call('HEXISTS', quarantine, char_id) == 1 then
  return 0
end
mark(dirty, since, char_id)
return 1

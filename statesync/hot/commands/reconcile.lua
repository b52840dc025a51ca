-- Brings a core or a session up to its row, under a claim: raises its version and adds the fields
-- that it lacks. A core that was made by a bare writer is laid over its row: it becomes one that is
-- saved as the row is. That counts as a sweep, which PostgreSQL remembers with the save of what is
-- laid: a Redis that goes back to before it is found out.
-- Uses: at_maxmemory, types, fields, seals
-- KEYS: 1 core or session, 2 claimed, 3 seals, 4 servers
-- ARGV: 1, packed: char_id and token of the claim, the hash's id, the seal of its snapshot, the
--       row's version, its seal or "", the counter of sweeps as it was when a core was found that
--       nothing is known of, or false, and the fields it may lack: field, value, …
-- Returns: 1; 0 if it is gone, the claim is lost, the snapshot is forgotten, or nothing is known of
--          the core and a server has started or went back
-- Errors: WRONGTYPE with the key's number
local hash, claimed, seals, servers = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local char_id, token, id, own_seal, row_version, seal, stump_sweeps, missing =
  unpack(cmsgpack.unpack(ARGV[1]))
local refused = marks_error(1, 'hash', 'zset', 'hash', 'hash')
if refused then return refused end
if redis.call('EXISTS', hash) == 0 then return 0 end
if redis.call('ZSCORE', claimed, char_id) ~= token then return 0 end
local words = redis.call('HGET', seals, id) or ''
if not has_word(words, own_seal) then return 0 end
local is_compared = redis.call('HEXISTS', servers, 'comparing') == 0
  or redis.call('HEXISTS', servers, 'recovering') == 1 -- which ends with its save, not before
if stump_sweeps then
  local sweeps = tonumber(redis.call('HGET', servers, 'sweeps') or '') or 0
  if sweeps < stump_sweeps or not is_compared or has_word(words, 'lost') then return 0 end
end
local version = tonumber(redis.call('HGET', hash, 'version') or '') or 0
if version < tonumber(row_version) then redis.call('HSET', hash, 'version', row_version) end
for i = 1, #missing, 2 do redis.call('HSETNX', hash, missing[i], missing[i + 1]) end
if stump_sweeps then
  redis.call('HINCRBY', servers, 'sweeps', 1)
  redis.call('HSET', hash, 'saved_version', row_version)
  write_entry(seals, id, words_of_row(words, seal == '' and 'laid' or 'laid ' .. seal))
end
return 1

-- Deletes a core, only if all of it is saved: its version is the saved one, nothing marked it
-- since (a bare writer marks without raising the version), no claim on it is out, and it is not in
-- quarantine. Its sessions go with the last participant that points at them. Tombstones keep the
-- versions for as long as a slow restore may still hold older rows.
-- Nothing is done if the core points at other sessions than expected, or a session names a
-- character that is not among the others: the reply says what is so, for the next try.
-- Uses: types, keys, references
-- KEYS: 1 core, 2 dirty, 3 claimed, 4 since, 5 tombstone, 6 quarantine, 7 seals, 8 nonces,
--       9 servers; then the sessions, their logs, their tombstones; then the others' cores
-- ARGV: 1, packed: char_id, tombstone_ms, references (each a field and what it should hold),
--       sessions (how many), others (char_ids)
-- Returns: 1 if the core is gone; 0 if it, or a session that would go with it, has unsaved
--          changes; or -1, what the fields hold, and the sessions' participants
-- Errors: WENTBACK; WRONGTYPE with the key's number
local core, dirty, claimed, since, tombstone, quarantine, seals, nonces =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local servers = KEYS[9]
local args = cmsgpack.unpack(ARGV[1])
local next_keys, count = keys_after(9), args.sessions
local sessions, logs, tombstones = next_keys(count), next_keys(count), next_keys(count)
local core_of = {[args.char_id] = core}
for i, other in ipairs(next_keys(#args.others)) do core_of[args.others[i]] = other end

local refused = marks_error(1, 'hash', 'set', 'zset', 'zset', 'string', 'hash')
  or marks_error(7, 'hash', 'hash', 'hash')
for i = 1, 2 * count do
  refused = refused or type_error(9 + i, i <= count and 'hash' or 'list')
end
if refused then return refused end
if redis.call('HEXISTS', servers, 'recovering') == 1 then return redis.error_reply('WENTBACK') end
if redis.call('EXISTS', core) == 0 then return {1} end
local session_ids, as_expected = read_references(core, args.references)
local participants = {}
for i, session in ipairs(sessions) do
  participants[i] = redis.call('HGET', session, 'participants') or ''
  for id in string.gmatch(participants[i], '%d+') do as_expected = as_expected and core_of[id] end
end
if not as_expected then return {-1, session_ids, participants} end

local function is_unsaved(char_id)
  return redis.call('SISMEMBER', dirty, char_id) == 1 or redis.call('ZSCORE', claimed, char_id)
    or redis.call('HEXISTS', quarantine, char_id) == 1
end

-- Returns whether no other loaded participant points at the session of a reference.
local function is_last(list, reference)
  local field, session_id = unpack(reference)
  for id in string.gmatch(list, '%d+') do
    local other = core_of[id]
    if other ~= core and redis.pcall('HGET', other, field) == session_id then return false end
  end
  return true
end

local version = redis.call('HGET', core, 'version')
if not version or version ~= redis.call('HGET', core, 'saved_version') then return {0} end
if is_unsaved(args.char_id) then return {0} end
local pointing, goes = {}, {} -- the references that lead to the sessions, in their order
for _, reference in ipairs(args.references) do
  if reference[2] ~= '' then pointing[#pointing + 1] = reference end
end
for i, list in ipairs(participants) do
  goes[i] = is_last(list, pointing[i])
  for id in string.gmatch(list, '%d+') do
    local was_left = redis.call('EXISTS', core_of[id]) == 1 -- it is saved without the session
    if goes[i] and not was_left and is_unsaved(id) then return {0} end
  end
end

redis.call('DEL', core)
redis.call('ZREM', since, args.char_id)
redis.call('HDEL', seals, args.char_id)
redis.call('HDEL', nonces, args.char_id)
redis.call('SET', tombstone, version, 'PX', args.tombstone_ms)
for i, session in ipairs(sessions) do
  if goes[i] and redis.call('EXISTS', session) == 1 then
    local session_version = redis.call('HGET', session, 'version') or '0'
    redis.call('SET', tombstones[i], session_version, 'PX', args.tombstone_ms)
    redis.call('DEL', session, logs[i])
    redis.call('HDEL', seals, pointing[i][2])
  end
end
return {1}

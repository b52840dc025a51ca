-- Sets a group to its rows, since Redis has gone back in time: PostgreSQL is right. What was live is
-- moved away, whole and undecoded, in the same step, until it is recorded. What PostgreSQL does not
-- have goes, with a tombstone. Nothing is done if a claim is lost or the group has grown, or if
-- PostgreSQL was found to have gone back itself since the group was read.
-- Uses: at_maxmemory, types, mark, fields, seals, members, restore
-- KEYS: 1 dirty, 2 claimed, 3 since, 4 quarantine, 5 seals, 6 nonces, 7 dropped, 8 stats,
--       9 servers; then the group's cores, sessions, logs, ties; the tombstones of its cores and sessions; for each of
--       its cores, sessions and logs the key to which it is moved; and as for restore the keys of
--       what is restored
-- ARGV: 1, packed: members (the names of characters, sessions, ties), tokens (by char_id, of those
--       that are loaded), references (the fields, and the session type of each), dropped_id, entry
--       (what is kept under it), tombstones (a version for each core and session, ""
--       for none), tombstone_ms, is_recovering (whether the group was read during a recovery of
--       PostgreSQL), channel, message, items (as restore takes them)
-- Returns: 1; 0 if the group has grown or a staged log is not whole
-- Errors: LEASELOST; WENTBACK; WRONGTYPE with the key's number
local dirty, claimed, since, quarantine = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local seals, nonces, dropped, stats = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local servers = KEYS[9]
local args = cmsgpack.unpack(ARGV[1])
local characters, sessions, ties = unpack(args.members)
local reference_fields, session_types = unpack(args.references)
local marks = {dirty = dirty, since = since, seals = seals, nonces = nonces}

local refused = marks_error(1, 'set', 'zset', 'zset', 'hash', 'hash', 'hash', 'hash')
  or type_error(9, 'hash')
if refused then return refused end
if not args.is_recovering and redis.call('HEXISTS', servers, 'recovering') == 1 then
  return redis.error_reply('WENTBACK')
end
for _, char_id in ipairs(characters) do
  local token = args.tokens[char_id]
  if token and redis.call('ZSCORE', claimed, char_id) ~= token then
    return redis.error_reply('LEASELOST')
  end
end

-- Whether the group is still the one that was read. What is no hash belongs to nothing else.
number_members(9, characters, sessions, ties)
for i, char_id in ipairs(characters) do
  local core, fields = KEYS[9 + i], {}
  if redis.call('EXISTS', core) == 1 and not args.tokens[char_id] then return 0 end
  if redis.call('TYPE', core).ok == 'hash' then
    for _, field in ipairs(reference_fields) do fields[field] = redis.call('HGET', core, field) end
    need_sessions(9 + i, fields, reference_fields, session_types)
    need_tie(9 + i, redis.call('HGET', core, TIE))
  end
end
for _, session in ipairs(sessions) do
  local number = number_of[session]
  if redis.call('TYPE', KEYS[number]).ok == 'hash' then
    need_participants(number, redis.call('HGET', KEYS[number], 'participants') or '')
    need_tie(number, redis.call('HGET', KEYS[number], TIE))
  end
end
for _, tie in ipairs(ties) do
  local number = number_of[tie]
  if redis.call('TYPE', KEYS[number]).ok == 'hash' then
    for _, name in ipairs(redis.call('HKEYS', KEYS[number])) do need(name, number, '', name) end
  end
end
if #found > 0 then return 0 end

local movable = #characters + 2 * #sessions
local first_tombstone = 9 + movable + #ties
local first_copy = first_tombstone + #characters + #sessions
local first_item = first_copy + movable + 1
local number = first_item
for _, item in ipairs(args.items) do
  for n, session in ipairs(item[5]) do
    local _, _, _, staged = session_keys(number, n)
    if redis.pcall('LLEN', staged) ~= session[4] then return 0 end
  end
  number = number + 2 + 4 * #item[5]
end

-- From here on nothing can be refused.
redis.call('HSET', dropped, args.dropped_id, args.entry)
for i = 1, movable do
  if redis.call('EXISTS', KEYS[9 + i]) == 1 then
    redis.call('RENAME', KEYS[9 + i], KEYS[first_copy + i])
    redis.call('PERSIST', KEYS[first_copy + i])
  end
end
for i = 1, #ties do redis.call('DEL', KEYS[9 + movable + i]) end
for i, version in ipairs(args.tombstones) do
  if version ~= '' then
    redis.call('SET', KEYS[first_tombstone + i], version, 'PX', args.tombstone_ms)
  end
end
for _, char_id in ipairs(characters) do
  if args.tokens[char_id] then
    redis.call('SREM', dirty, char_id)
    redis.call('ZREM', claimed, char_id)
    redis.call('ZREM', since, char_id)
    redis.call('HDEL', quarantine, char_id)
    redis.call('HDEL', nonces, char_id)
    redis.call('HDEL', seals, char_id)
  end
end
for _, session in ipairs(sessions) do redis.call('HDEL', seals, id_of(session)) end

restore_all(marks, first_item, args.items)
redis.pcall('HINCRBY', stats, 'reverted', #characters)
redis.call('PUBLISH', args.channel, args.message)
return 1

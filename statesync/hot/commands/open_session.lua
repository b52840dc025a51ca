-- Opens a session of loaded characters: makes it, points their cores at it, writes what else is to
-- change in them, and marks them dirty.
-- Sent twice it does no harm: what the first run made counts as opened, if it still is so.
-- Uses: types, version, mark, fields
-- KEYS: 1 session, 2 dirty, 3 since, 4 nonces, then the cores
-- ARGV: 1, packed: reference_field, session_id, char_ids, session_fields, core_fields, nonce (or
--       none)
-- Returns: the session's version
-- Errors: SESSIONEXISTS; with the key's number NOTLOADED, INSESSION, BADVERSION, WRONGTYPE
local session, dirty, since, nonces = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local args = cmsgpack.unpack(ARGV[1])
local reference_field, session_id, char_ids = args.reference_field, args.session_id, args.char_ids

-- Returns whether the session holds what it is to be opened with, and nothing else.
local function is_as_opened()
  local count = #args.session_fields[1] / 2
  for _, name in ipairs({'version', 'saved_version', 'statesync:tie'}) do
    count = count + redis.call('HEXISTS', session, name)
  end
  return redis.call('HLEN', session) == count and holds(session, args.session_fields)
end

local refused = marks_error(1, 'hash', 'set', 'zset', 'hash')
if refused then return refused end
local version = redis.call('HGET', session, 'version')
local was_opened = version and is_as_opened()
for i = 1, #char_ids do
  local number = 4 + i
  if redis.call('EXISTS', KEYS[number]) == 0 then
    return redis.error_reply('NOTLOADED ' .. number)
  end
  refused = version_error(number)
  if refused then return refused end
  local reference = redis.call('HGET', KEYS[number], reference_field) or ''
  was_opened = was_opened and reference == session_id and holds(KEYS[number], args.core_fields)
  if reference ~= '' and reference ~= session_id then
    return redis.error_reply('INSESSION ' .. number)
  end
end
if was_opened then
  if args.nonce then
    for _, char_id in ipairs(char_ids) do mark(dirty, since, char_id, nonces, args.nonce) end
  end
  return tonumber(version)
end
if redis.call('EXISTS', session) == 1 then return redis.error_reply('SESSIONEXISTS') end

redis.call('HSET', session, 'version', 1)
write_fields(session, args.session_fields)
for i, char_id in ipairs(char_ids) do
  local core = KEYS[4 + i]
  redis.call('HINCRBY', core, 'version', 1)
  redis.call('HSET', core, reference_field, session_id)
  write_fields(core, args.core_fields)
  mark(dirty, since, char_id, nonces, args.nonce)
end
return 1

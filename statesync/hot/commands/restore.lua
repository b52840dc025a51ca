-- Restores cores from PostgreSQL, each only if it is absent, and then its sessions, each only if
-- the core points at it and it is absent: another character may still be playing in it. Several in
-- one script share its call and its arguments; a refusal of one leaves the others alone.
-- A row that was read before the character was played, saved and evicted again is refused: it is
-- older than the tombstone. So is a log that was not staged whole, and an item that was only to
-- bring back sessions of a core that is gone by now.
-- A character that a live session does not name has left it while it was not loaded. One that finds
-- a live session that is not as its row is marked: what happened in the session while none of its
-- participants was loaded has no mark.
-- What became of a core is counted here: a call of its own would make a login wait once more.
-- Uses: types, mark, fields
-- KEYS: 1 dirty, 2 since, 3 stats; then for each character its core, tombstone; for each of its
--       sessions the hash, log, tombstone, staged log
-- ARGV: 1, packed: for each character char_id, the row's version or "" for its sessions alone,
--       whether the core is not as its row, its fields, and its sessions: each a reference field,
--       id, version, length of its log, fields
-- Returns: for each character a text: "restored", "live" or "stale", and for each of its sessions
--          "restored", "live" or "left"; or the error
-- Errors: with the key's number WRONGTYPE; as text if it is a character's
local dirty, since, stats = KEYS[1], KEYS[2], KEYS[3]
local items = cmsgpack.unpack(ARGV[1])
local counts = {}

-- Returns the keys of the n-th session of the character whose core is KEYS[number].
local function session_keys(number, n)
  local first = number + 4 * n - 2
  return KEYS[first], KEYS[first + 1], KEYS[first + 2], KEYS[first + 3]
end

local function has_left(session, char_id)
  local participants = redis.call('HGET', session, 'participants')
  if not participants or not string.find(participants, '%d') then return false end
  for id in string.gmatch(participants, '%d+') do
    if id == char_id then return false end
  end
  return true
end

local function is_older(version, tombstone)
  local evicted_version = redis.pcall('GET', tombstone)
  return type(evicted_version) == 'string' and tonumber(evicted_version) > tonumber(version)
end

-- Returns which of a character's sessions are live; or nothing and why it is refused.
local function find_live(number, sessions)
  local is_live = {}
  for n, item in ipairs(sessions) do
    local _, _, version, log_length = unpack(item)
    local session, _, tombstone, staged = session_keys(number, n)
    is_live[n] = redis.call('EXISTS', session) == 1
    if is_live[n] then
      if redis.call('TYPE', session).ok ~= 'hash' then
        return nil, 'WRONGTYPE ' .. (number + 4 * n - 2)
      end
    elseif is_older(version, tombstone) or redis.pcall('LLEN', staged) ~= log_length then
      return nil, 'stale'
    end
  end
  return is_live
end

-- Drops the logs that were staged for a character that is refused. Returns the refusal.
local function drop_staged(number, sessions, refused)
  for n = 1, #sessions do
    local _, _, _, staged = session_keys(number, n)
    redis.call('DEL', staged)
  end
  return refused
end

local function place_log(staged, log)
  redis.call('DEL', log)
  if redis.call('EXISTS', staged) == 1 then
    redis.call('RENAME', staged, log)
    redis.call('PERSIST', log)
  end
end

-- Restores the n-th session of a character. Returns what became of it.
local function restore_session(number, char_id, core_was_live, n, session_was_live, item)
  local field, id, version, _, fields = unpack(item)
  local core, session, log, _, staged = KEYS[number], session_keys(number, n)
  local outcome = 'live'
  if redis.call('HGET', core, field) ~= id then
    outcome = 'left'
  elseif not session_was_live then
    outcome = 'restored'
    write_fields(session, fields)
    place_log(staged, log)
  elseif not core_was_live and has_left(session, char_id) then
    outcome = 'left'
    redis.call('HDEL', core, field)
    mark(dirty, since, char_id)
  elseif redis.call('HGET', session, 'version') ~= version then
    mark(dirty, since, char_id)
  end
  redis.call('DEL', staged)
  return outcome
end

-- Restores the character whose core is KEYS[number]. Returns what became of it and its sessions.
local function restore(number, char_id, version, is_changed, fields, sessions)
  local core, tombstone = KEYS[number], KEYS[number + 1]
  local was_live = redis.call('EXISTS', core) == 1
  if not was_live and (version == '' or is_older(version, tombstone)) then
    return drop_staged(number, sessions, 'stale')
  end
  if was_live and #sessions > 0 and redis.call('TYPE', core).ok ~= 'hash' then
    return 'WRONGTYPE ' .. number
  end
  local is_live, refused = find_live(number, sessions)
  if not is_live then return drop_staged(number, sessions, refused) end

  local outcome = was_live and 'live' or 'restored'
  if not was_live then
    write_fields(core, fields)
    if is_changed then mark(dirty, since, char_id) end
  end
  if version ~= '' then counts[outcome] = (counts[outcome] or 0) + 1 end
  local outcomes = {outcome}
  for n, item in ipairs(sessions) do
    outcomes[n + 1] = restore_session(number, char_id, was_live, n, is_live[n], item)
  end
  return table.concat(outcomes, ' ')
end

local refused = marks_error(1, 'set', 'zset')
if refused then return refused end
local replies, number = {}, 4
for i, item in ipairs(items) do
  local char_id, version, is_changed, fields, sessions = unpack(item)
  replies[i] = restore(number, char_id, version, is_changed, fields, sessions)
  number = number + 2 + 4 * #sessions
end
for outcome, count in pairs(counts) do redis.pcall('HINCRBY', stats, outcome, count) end
return replies

-- Restores cores and sessions from rows, each only if it is absent. marks are the keys of the dirty
-- set, of what stands beside it, of the seals and of the nonces.

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
local function restore_session(marks, number, char_id, core_was_live, n, session_was_live, item)
  local field, id, version, _, fields, seal = unpack(item)
  local core, session, log, _, staged = KEYS[number], session_keys(number, n)
  local outcome = 'live'
  if redis.call('HGET', core, field) ~= id then
    outcome = 'left'
  elseif not session_was_live then
    outcome = 'restored'
    write_fields(session, fields)
    place_log(staged, log)
    write_entry(marks.seals, id, with_saved_version(seal, version))
  elseif not core_was_live and has_left(session, char_id) then
    outcome = 'left'
    redis.call('HDEL', core, field)
    mark(marks.dirty, marks.since, char_id)
  elseif redis.call('HGET', session, 'version') ~= version then
    mark(marks.dirty, marks.since, char_id)
  end
  redis.call('DEL', staged)
  return outcome
end

-- Restores the character whose core is KEYS[number]. Returns what became of the core, and of it and
-- its sessions as one text.
local function restore(marks, number, item)
  local char_id, version, is_changed, fields, sessions, seal = unpack(item)
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
    local words = words_of_row(redis.call('HGET', marks.seals, char_id), seal)
    write_entry(marks.seals, char_id, words)
    redis.call('HDEL', marks.nonces, char_id) -- of changes that were lost with the core
    if is_changed then mark(marks.dirty, marks.since, char_id) end
  end
  local outcomes = {outcome}
  for n, session in ipairs(sessions) do
    outcomes[n + 1] = restore_session(marks, number, char_id, was_live, n, is_live[n], session)
  end
  return table.concat(outcomes, ' '), outcome
end

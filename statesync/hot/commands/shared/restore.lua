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

-- Returns whether what a tombstone holds, false if there is none, is above a row's version.
local function is_newer(evicted_version, version)
  return evicted_version and tonumber(evicted_version) > tonumber(version)
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
    elseif is_newer(redis.call('MGET', tombstone)[1], version)
      or redis.pcall('LLEN', staged) ~= log_length
    then
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
local function restore(marks, number, item, was_live, evicted_version)
  local char_id, version, is_changed, fields, sessions = unpack(item)
  local core = KEYS[number]
  if not was_live and (version == '' or is_newer(evicted_version, version)) then
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
    if is_changed then mark(marks.dirty, marks.since, char_id) end
  end
  if #sessions == 0 then return outcome, outcome end
  local outcomes = {outcome}
  for n, session in ipairs(sessions) do
    outcomes[n + 1] = restore_session(marks, number, char_id, was_live, n, is_live[n], session)
  end
  return table.concat(outcomes, ' '), outcome
end

-- Restores characters; the keys of the first begin at KEYS[number]. Returns what became of each, as
-- one text, and how many cores had which outcome.
local function restore_all(marks, number, items)
  if #items == 0 then return {}, {} end
  local ids, numbers, cores, tombstones = {}, {}, {}, {}
  for i, item in ipairs(items) do
    ids[i], numbers[i] = item[1], number
    cores[i], tombstones[i] = KEYS[number], KEYS[number + 1]
    number = number + 2 + 4 * #item[5]
  end
  local any_live = redis.call('EXISTS', unpack(cores)) > 0
  local evicted_versions = redis.call('MGET', unpack(tombstones))
  local words_before = read_fields(marks.seals, ids)
  local texts, counts, restored, words_of = {}, {}, {}, {}
  for i, item in ipairs(items) do
    local was_live = any_live and redis.call('EXISTS', cores[i]) == 1
    local outcome
    texts[i], outcome = restore(marks, numbers[i], item, was_live, evicted_versions[i])
    if outcome and item[2] ~= '' then counts[outcome] = (counts[outcome] or 0) + 1 end
    if outcome == 'restored' then
      restored[#restored + 1] = ids[i]
      words_of[ids[i]] = words_of_row(words_before[i], item[6])
    end
  end
  if #restored > 0 then
    write_words(marks.seals, words_of)
    in_parts('HDEL', marks.nonces, restored) -- of changes that were lost with the cores
  end
  return texts, counts
end

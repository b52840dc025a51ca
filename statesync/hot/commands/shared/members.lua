-- The members of a group, by name, as Python lists them (members.py): a character by its id, a
-- session as type:id, a tie by its id. number_of[name] is the number of the member's key.
-- What else turns out to belong to the group goes into found, as the number of the key where that
-- was read, the field and what it holds. Python declares it at the next try.
local TIE = 'statesync:tie'
local number_of, found = {}, {}

-- Numbers the members whose keys follow KEYS[before]: characters, sessions, their logs, ties.
local function number_members(before, characters, sessions, ties)
  for i = 1, #characters do number_of[characters[i]] = before + i end
  before = before + #characters
  for i = 1, #sessions do number_of[sessions[i]] = before + i end
  before = before + 2 * #sessions
  for i = 1, #ties do number_of[ties[i]] = before + i end
end

local function need(name, number, field, value)
  if not number_of[name] then
    local last = #found
    found[last + 1], found[last + 2], found[last + 3] = number, field, value
  end
end

local function need_tie(number, tie)
  if tie and tie ~= '' then need(tie, number, TIE, tie) end
end

-- fields are those of a core; each reference field leads to sessions of one type.
local function need_sessions(number, fields, reference_fields, session_types)
  for i = 1, #reference_fields do
    local field = reference_fields[i]
    local id = fields[field]
    if id and id ~= '' then need(session_types[i] .. ':' .. id, number, field, id) end
  end
end

local function need_participants(number, participants)
  for char_id in string.gmatch(participants, '%d+') do
    if not number_of[char_id] then return need(char_id, number, 'participants', participants) end
  end
end

-- Returns the error for a member or a tie that is no hash; nothing if they are hashes, or absent.
local function members_error(characters, sessions, ties)
  for _, names in ipairs({characters, sessions, ties}) do
    for _, name in ipairs(names) do
      local refused = type_error(number_of[name], 'hash')
      if refused then return refused end
    end
  end
end

-- Returns whether one of the participants is loaded and points at the session.
local function has_loaded(participants, reference_field, session_id)
  for char_id in string.gmatch(participants, '%d+') do
    if redis.call('HGET', KEYS[number_of[char_id]], reference_field) == session_id then
      return true
    end
  end
  return false
end

-- Returns the error for participants that are no list of ids; nothing if they are one.
local function participants_error(number, participants)
  if participants ~= '' and not string.match(participants, '^%s*%[[%d,%s]*%]%s*$') then
    return redis.error_reply('BADLIST ' .. number)
  end
end

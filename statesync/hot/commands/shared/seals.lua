-- The entry of a core or session in the seals: words separated by a space, oldest first. A word is
-- the seal of a snapshot; or a note: "created" (the core knows no row), "bare" (nothing was known at
-- its first snapshot), "lost" (nor when Redis had gone back), "deleted" (a deletion began), "laid"
-- (it is laid over its row, which is not saved yet), "v12" (a session was saved at version 12).

-- Returns the field of a member: a character's id, or that of a session.
local function id_of(name) return string.match(name, '[^:]+$') end

local function has_word(words, word)
  return string.find(' ' .. words .. ' ', ' ' .. word .. ' ', 1, true) ~= nil
end

-- Returns whether a seal is the last word. Of random ones, one in 10^18 would end another by chance.
local function is_last_word(words, seal) return string.sub(words, -#seal) == seal end

local function without_word(words, word)
  local kept = {}
  for one in string.gmatch(words, '%S+') do
    if one ~= word then kept[#kept + 1] = one end
  end
  return table.concat(kept, ' ')
end

local OF_NO_ROW = {created = true, bare = true, lost = true}

-- Returns the words from a seal on, if it is among them. Of the notes before it, those go that say
-- that no row is known.
local function words_from(words, seal)
  if words == seal then return words end
  local first = string.find(' ' .. words .. ' ', ' ' .. seal .. ' ', 1, true)
  if not first or first == 1 then return words end
  local rest = string.sub(words, first)
  for note in string.gmatch(string.sub(words, 1, first - 1), '%a%w*') do
    if not OF_NO_ROW[note] then rest = note .. ' ' .. rest end
  end
  return rest
end

-- Returns the version at which a session was saved; nil if it never was. A core has a field for it.
local function saved_version_of(words) return string.match(' ' .. words, ' v(%d+)') end

local function with_saved_version(words, version)
  local rest = without_word(words, 'v' .. (saved_version_of(words) or ''))
  return rest == '' and 'v' .. version or 'v' .. version .. ' ' .. rest
end

-- Returns the entry of what is restored from a row; seal is "" if the row has none.
local function words_of_row(before, seal)
  local words = seal
  if before and has_word(before, 'deleted') then
    words = seal == '' and 'deleted' or 'deleted ' .. seal
  end
  return words
end

-- Reads fields of a hash; false for one that it lacks.
local function read_fields(key, names)
  local values = {}
  if #names > 0 and #names <= 1000 then return redis.call('HMGET', key, unpack(names)) end
  for first = 1, #names, 1000 do -- unpack gives no more than some thousands at once
    local last = math.min(first + 999, #names)
    for i, value in ipairs(redis.call('HMGET', key, unpack(names, first, last))) do
      values[first + i - 1] = value
    end
  end
  return values
end

-- Writes the entry of a member; one without a word goes.
local function write_entry(seals, id, words)
  if words == '' then
    redis.call('HDEL', seals, id)
  else
    redis.call('HSET', seals, id, words)
  end
end

-- Writes the entries of members, by id.
local function write_words(seals, words_of)
  local set, deleted = {}, {}
  for name, words in pairs(words_of) do
    if words == '' then
      deleted[#deleted + 1] = name
    else
      set[#set + 1] = name
      set[#set + 1] = words
    end
  end
  write_fields(seals, {set, deleted})
end

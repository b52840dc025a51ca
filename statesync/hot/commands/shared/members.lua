-- The members of a group by name, as Python lists them (members.py): a character by its id, a
-- session as type:id, a tie by its id. at[name] is the number of its key.
-- Whoever else turns out to belong to the group is noted in found, as the number of the key where
-- that was read, the field and what it holds, for Python to declare at the next try.
local TIE = 'statesync:tie'
local at, found = {}, {}

local function name_members(list, before, first, cores, sessions, ties)
  for i = 0, cores + sessions - 1 do at[list[first + i]] = before + 1 + i end
  for i = cores + sessions, cores + sessions + ties - 1 do
    at[list[first + i]] = before + 1 + sessions + i -- the keys of the logs come in between
  end
end

local function need(name, i, field, value)
  if not at[name] then
    found[#found + 1] = i
    found[#found + 1] = field
    found[#found + 1] = value
  end
end

-- Returns the error to give where participants are no list of ids; nothing if they are.
local function bad_participants(i, list)
  if list ~= '' and not string.match(list, '^%s*%[[%d,%s]*%]%s*$') then
    return redis.error_reply('BADLIST ' .. i)
  end
end

local function need_participants(i, list)
  for id in string.gmatch(list, '%d+') do
    if not at[id] then return need(id, i, 'participants', list) end
  end
end

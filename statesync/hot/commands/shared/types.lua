-- Says whether keys hold what they must, before a script writes anything: an error in its middle
-- would leave one half of the change behind.

-- Returns the error for KEYS[number] if it holds anything else; nothing if it is absent.
local function type_error(number, expected)
  local found = redis.call('TYPE', KEYS[number]).ok
  if found ~= expected and found ~= 'none' then return redis.error_reply('WRONGTYPE ' .. number) end
end

-- Returns the error for the dirty set and what stands beside it, in the order of the keys: dirty,
-- since; or dirty, claimed, since, quarantine.
local function marks_error(first, ...)
  local refused
  for i, expected in ipairs({...}) do
    refused = refused or type_error(first + i - 1, expected)
  end
  return refused
end

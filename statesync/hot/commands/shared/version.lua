-- Says whether what a version's field holds, or false, cannot be raised.
local function bad_version(text)
  local valid = not text or text == '0' or string.match(text, '^[1-9]%d*$')
  return not valid or tonumber(text or 0) >= 9007199254740991
end

-- Returns the error to give where the version in a hash cannot be raised; nothing if it can.
local function cannot_raise(i)
  local text = redis.pcall('HGET', KEYS[i], 'version')
  if type(text) == 'table' then return redis.error_reply('WRONGTYPE ' .. i) end
  if bad_version(text) then return redis.error_reply('BADVERSION ' .. i) end
end

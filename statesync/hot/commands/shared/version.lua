-- Says whether a version cannot be raised; text is what its field holds, false if it is absent.
local function is_bad_version(text)
  local is_number = not text or text == '0' or string.match(text, '^[1-9]%d*$')
  return not is_number or tonumber(text or 0) >= 9007199254740991
end

-- Returns the error for the hash whose version cannot be raised; nothing if it can.
local function version_error(number)
  local text = redis.pcall('HGET', KEYS[number], 'version')
  if type(text) == 'table' then return redis.error_reply('WRONGTYPE ' .. number) end
  if is_bad_version(text) then return redis.error_reply('BADVERSION ' .. number) end
end

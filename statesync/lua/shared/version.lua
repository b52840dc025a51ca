-- Returns the error to give where the version in a hash cannot be raised; nothing if it can.
local function cannot_raise(i)
  local text = redis.pcall('HGET', KEYS[i], 'version')
  if type(text) == 'table' then return redis.error_reply('WRONGTYPE ' .. i) end
  local valid = not text or text == '0' or string.match(text, '^[1-9]%d*$')
  if not valid or tonumber(text or 0) >= 9007199254740991 then
    return redis.error_reply('BADVERSION ' .. i)
  end
end

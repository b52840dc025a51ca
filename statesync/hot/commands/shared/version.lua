-- Says whether a version cannot be raised; text is what its field holds, false if it is absent.
local function is_bad_version(text)
  local is_number = not text or text == '0' or string.match(text, '^[1-9]%d*$')
  return not is_number or tonumber(text or 0) >= 9007199254740991
end

-- Returns the code for KEYS[number] if it could not be read since it is of another type. Raises what
-- else refused it, such as a missing right: that is no character's fault.
local function wrong_type(number, refusal)
  if not string.find(refusal.err, 'WRONGTYPE', 1, true) then error(refusal.err) end
  return 'WRONGTYPE ' .. number
end

-- Returns the error for the hash whose version cannot be raised; nothing if it can.
local function version_error(number)
  local text = redis.pcall('HGET', KEYS[number], 'version')
  if type(text) == 'table' then return redis.error_reply(wrong_type(number, text)) end
  if is_bad_version(text) then return redis.error_reply('BADVERSION ' .. number) end
end

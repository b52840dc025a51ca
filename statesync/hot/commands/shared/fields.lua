-- Writes fields of a hash and deletes others. Python lists both (fields.py): field, value, field,
-- value, …; and, if there are any, the fields to delete.
local function in_parts(command, key, list)
  for first = 1, #list, 1000 do -- unpack gives no more than some thousands at once
    local last = first + 999
    if last > #list then last = #list end
    redis.call(command, key, unpack(list, first, last))
  end
end

local function write_fields(key, writes)
  local set, deleted = writes[1], writes[2]
  in_parts('HSET', key, set)
  if deleted then in_parts('HDEL', key, deleted) end
end

-- Returns whether a hash holds the fields as they are written, and none of the deleted ones.
local function holds(key, writes)
  local set, deleted = writes[1], writes[2] or {}
  for i = 1, #set, 2 do
    if redis.call('HGET', key, set[i]) ~= set[i + 1] then return false end
  end
  for _, field in ipairs(deleted) do
    if redis.call('HEXISTS', key, field) == 1 then return false end
  end
  return true
end

-- Writes fields of a hash and deletes others. Python packs both (fields.py): set is field, value,
-- field, value, …; delete is a list of fields.
local UNPACKED = 1000 -- unpack gives no more than some thousands at once

local function write_fields(key, fields)
  local set, delete = fields.set, fields.delete
  for first = 1, #set, UNPACKED do
    redis.call('HSET', key, unpack(set, first, math.min(first + UNPACKED - 1, #set)))
  end
  for first = 1, #delete, UNPACKED do
    redis.call('HDEL', key, unpack(delete, first, math.min(first + UNPACKED - 1, #delete)))
  end
end

-- Creates the core of a new character and marks it dirty. Notes that it is new: if PostgreSQL has
-- the id, the core is of another history.
-- Sent twice it does no harm: what the first run made counts as created.
-- Uses: types, mark, fields
-- KEYS: 1 core, 2 dirty, 3 since, 4 seals, 5 nonces
-- ARGV: 1 char_id, 2 the fields, packed, 3 the nonce, if there is one
-- Returns: the version, 1
-- Errors: EXISTS; WRONGTYPE with the key's number
local core, dirty, since, seals, nonces = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local char_id, writes, nonce = ARGV[1], cmsgpack.unpack(ARGV[2]), ARGV[3]

local function is_same()
  local set = unpack(writes)
  if redis.call('TYPE', core).ok ~= 'hash' then return false end
  if redis.call('HGET', core, 'version') ~= '1' then return false end
  if redis.call('HLEN', core) ~= #set / 2 + 1 then return false end
  for i = 1, #set, 2 do
    if redis.call('HGET', core, set[i]) ~= set[i + 1] then return false end
  end
  return true
end

if redis.call('EXISTS', core) == 1 and not is_same() then return redis.error_reply('EXISTS') end
local refused = marks_error(2, 'set', 'zset', 'hash', 'hash')
if refused then return refused end
if redis.call('EXISTS', core) == 0 then
  redis.call('HSET', seals, char_id, 'created')
  redis.call('HDEL', nonces, char_id) -- of a core that was lost
  redis.call('HSET', core, 'version', 1)
  write_fields(core, writes)
end
mark(dirty, since, char_id, nonces, nonce)
return 1

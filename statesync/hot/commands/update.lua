-- Writes and deletes fields of a loaded character, raises its version and marks it dirty.
-- Without any field it only marks.
-- Uses: types, mark, fields
-- KEYS: 1 core, 2 dirty, 3 since; 4 nonces, if there is a nonce
-- ARGV: 1 char_id, 2 the fields to write and to delete, packed, 3 the nonce; the last two if there
--       are any
-- Returns: the new version
-- Errors: NOTLOADED, BADVERSION, WRONGTYPE; WRONGTYPE with the number of another key
local core, dirty, since, nonces = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local char_id, writes, nonce = ARGV[1], ARGV[2], ARGV[3]

if redis.call('EXISTS', core) == 0 then return redis.error_reply('NOTLOADED') end
local version = redis.pcall('HINCRBY', core, 'version', 1)
if type(version) ~= 'number' then
  -- Anything else, such as being out of memory, is the server's trouble and no character's.
  local bad = string.find(version.err, 'not an integer') or string.find(version.err, 'overflow')
  return bad and redis.error_reply('BADVERSION') or version
end
local marked, refused = pcall(mark, dirty, since, char_id, nonces, nonce)
if not marked then
  redis.call('HINCRBY', core, 'version', -1)
  -- A missing right is a table, or a text on Redis 6.2.
  return type_error(2, 'set') or type_error(3, 'zset') or nonces and type_error(4, 'hash')
    or type(refused) == 'table' and refused or redis.error_reply(refused)
end
if writes then write_fields(core, cmsgpack.unpack(writes)) end
return version

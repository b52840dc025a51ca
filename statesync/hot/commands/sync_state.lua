-- Reads the marks of one character.
-- Uses: types
-- KEYS: 1 dirty, 2 claimed, 3 since, 4 quarantine
-- ARGV: 1 char_id
-- Returns: 1 if dirty, else 0; the claim's token or ""; ms of the first unsaved change or "";
--          the quarantine entry or ""
-- Errors: WRONGTYPE with the key's number
local dirty, claimed, since, quarantine = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local char_id = ARGV[1]
local refused = marks_error(1, 'set', 'zset', 'zset', 'hash')
if refused then return refused end
return {
  redis.call('SISMEMBER', dirty, char_id), redis.call('ZSCORE', claimed, char_id) or '',
  redis.call('ZSCORE', since, char_id) or '', redis.call('HGET', quarantine, char_id) or ''}

-- Notes that a deletion of a character has begun: a row that is deleted is so by us. Ends a claim on
-- it, since the snapshot of that claim does not know.
-- Uses: at_maxmemory, types, mark, seals
-- KEYS: 1 core, 2 dirty, 3 claimed, 4 since, 5 seals
-- ARGV: 1 char_id
-- Returns: 1; 0 if it was noted before
-- Errors: WRONGTYPE with the key's number
local core, dirty, claimed, since, seals = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local char_id = ARGV[1]
local refused = marks_error(2, 'set', 'zset', 'zset', 'hash')
if refused then return refused end
local words = redis.call('HGET', seals, char_id)
local was_noted = words and has_word(words, 'deleted')
if not was_noted then
  redis.call('HSET', seals, char_id, words and words .. ' deleted' or 'deleted')
end
if redis.call('ZREM', claimed, char_id) == 1 and redis.call('EXISTS', core) == 1 then
  mark(dirty, since, char_id)
end
return was_noted and 0 or 1

-- Notes that a deletion of a character has begun: a row that is deleted is so by us.
-- Uses: types, seals
-- KEYS: 1 seals
-- ARGV: 1 char_id
-- Returns: 1
-- Errors: WRONGTYPE with the key's number
local seals, char_id = KEYS[1], ARGV[1]
local refused = type_error(1, 'hash')
if refused then return refused end
local words = redis.call('HGET', seals, char_id)
if not words then
  redis.call('HSET', seals, char_id, 'deleted')
elseif not has_word(words, 'deleted') then
  redis.call('HSET', seals, char_id, words .. ' deleted')
end
return 1

-- Reads which tie a character is in, and who is in it.
-- KEYS: 1 core, 2 the tie
-- ARGV: 1 the id of the tie, "" if it is not known yet
-- Returns: the id of the tie that the core names, or ""; if it is this one, the names in it
-- Errors: none
local core, tie = KEYS[1], KEYS[2]
local tie_id = ARGV[1]
if redis.call('TYPE', core).ok ~= 'hash' then return {''} end
local named = redis.call('HGET', core, 'statesync:tie') or ''
local reply = {named}
if named ~= '' and named == tie_id and redis.call('TYPE', tie).ok == 'hash' then
  for _, name in ipairs(redis.call('HKEYS', tie)) do reply[#reply + 1] = name end
end
return reply

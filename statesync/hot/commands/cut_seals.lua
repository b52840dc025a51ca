-- Cuts the entries of seals of a group to the newest one, which its rows have now, under the claim
-- of one of its characters: what an earlier snapshot still commits is refused.
-- Uses: at_maxmemory, types, fields, seals
-- KEYS: 1 claimed, 2 seals
-- ARGV: 1, packed: char_id, token, the newest seal by id
-- Returns: 1 if the claim was still ours, else 0
-- Errors: WRONGTYPE with the key's number
local claimed, seals = KEYS[1], KEYS[2]
local char_id, token, newest = unpack(cmsgpack.unpack(ARGV[1]))
local refused = marks_error(1, 'zset', 'hash')
if refused then return refused end
if redis.call('ZSCORE', claimed, char_id) ~= token then return 0 end
local new_words = {}
for id, seal in pairs(newest) do
  local words = redis.call('HGET', seals, id)
  if words then new_words[id] = words_from(words, seal) end
end
write_words(seals, new_words)
return 1

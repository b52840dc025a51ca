-- Notes of cores that were never saved and were not made as new ones that Redis had gone back when
-- they were there: they may be from before that. The backup of one that has a row records it and
-- takes the row, also if it comes after all is compared.
-- Uses: at_maxmemory, types, fields, seals
-- KEYS: 1 seals; then the cores
-- ARGV: the char_ids
-- Returns: nothing
-- Errors: WRONGTYPE with the key's number
local seals = KEYS[1]
local refused = type_error(1, 'hash')
if refused then return refused end
for i, char_id in ipairs(ARGV) do
  local core = KEYS[1 + i]
  local is_there = redis.call('TYPE', core).ok == 'hash'
  if is_there and not redis.call('HGET', core, 'saved_version') then
    local words = redis.call('HGET', seals, char_id)
    if not words then
      write_entry(seals, char_id, 'lost')
    elseif not has_word(words, 'created') and not has_word(words, 'lost') then
      write_entry(seals, char_id, 'lost ' .. words)
    end
  end
end

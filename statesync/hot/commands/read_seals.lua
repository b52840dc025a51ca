-- Reads what Redis knows of the history of cores and sessions.
-- Uses: types, fields, seals
-- KEYS: 1 seals
-- ARGV: 1 the ids, packed
-- Returns: for each id its words, or nil
-- Errors: WRONGTYPE with the key's number
local seals = KEYS[1]
local refused = type_error(1, 'hash')
if refused then return refused end
return read_fields(seals, cmsgpack.unpack(ARGV[1]))

-- Removes notes on servers that work again.
-- Uses: types
-- KEYS: 1 troubles
-- ARGV: server:work, …
-- Returns: how many notes there were
-- Errors: WRONGTYPE with the key's number
local troubles = KEYS[1]
local refused = type_error(1, 'hash')
if refused then return refused end
return redis.call('HDEL', troubles, unpack(ARGV))

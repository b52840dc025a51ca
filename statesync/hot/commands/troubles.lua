-- Reads which servers refuse the work of workers.
-- Uses: clock, types
-- KEYS: 1 troubles
-- ARGV: none
-- Returns: now in ms; then server:work, note, …
-- Errors: WRONGTYPE with the key's number
local troubles = KEYS[1]
local refused = type_error(1, 'hash')
if refused then return refused end
return {integer(now_ms()), unpack(redis.call('HGETALL', troubles))}

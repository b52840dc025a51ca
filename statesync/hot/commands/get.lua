-- Reads the core of a character.
-- KEYS: 1 core
-- ARGV: none
-- Returns: field, value, field, value, …; empty if the character is not loaded
-- Errors: WRONGTYPE
local core = KEYS[1]
return redis.call('HGETALL', core)

-- Reads the core of a character.
-- KEYS: 1 core
-- ARGV: none
-- Returns: field, value, field, value, …; empty where the character is not loaded
-- Errors: WRONGTYPE
return redis.call('HGETALL', KEYS[1])

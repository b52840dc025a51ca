-- Reads what reverts took out of play and nobody has recorded yet.
-- KEYS: 1 dropped
-- ARGV: none
-- Returns: id, entry, id, entry, …
-- Errors: none
return redis.call('HGETALL', KEYS[1])

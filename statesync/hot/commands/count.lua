-- Adds to the shared counters.
-- KEYS: 1 stats
-- ARGV: name, number, name, number, …
-- Returns: nothing
-- Errors: none
for i = 1, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1]) end

-- Adds to the shared counters.
-- KEYS: 1 stats
-- ARGV: counter, number, counter, number, …
-- Returns: nothing
-- Errors: none
local stats = KEYS[1]
for i = 1, #ARGV, 2 do
  local counter, number = ARGV[i], ARGV[i + 1]
  redis.call('HINCRBY', stats, counter, number)
end

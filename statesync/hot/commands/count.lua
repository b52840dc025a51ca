-- Adds to the shared counters.
-- Uses: at_maxmemory, types
-- KEYS: 1 stats
-- ARGV: counter, number, counter, number, …
-- Returns: nothing
-- Errors: WRONGTYPE with the key's number
local stats = KEYS[1]
local refused = type_error(1, 'hash')
if refused then return refused end
for i = 1, #ARGV, 2 do
  local counter, number = ARGV[i], ARGV[i + 1]
  redis.pcall('HINCRBY', stats, counter, number) -- one that is no number is left alone
end

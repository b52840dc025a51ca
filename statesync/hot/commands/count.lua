-- Adds to the shared counters, and to the histograms.
-- Uses: at_maxmemory, types
-- KEYS: 1 stats, 2 histograms
-- ARGV: 1 how many counters; then counter, number, counter, number, …, and field, number, … of the
--       histograms
-- Returns: nothing
-- Errors: WRONGTYPE with the key's number
local stats, histograms = KEYS[1], KEYS[2]
local last_counter = 2 * tonumber(ARGV[1])
local refused = type_error(1, 'hash')
if refused then return refused end
for i = 2, #ARGV, 2 do
  local key = i <= last_counter and stats or histograms
  redis.pcall('HINCRBY', key, ARGV[i], ARGV[i + 1]) -- one that is no number is left alone
end

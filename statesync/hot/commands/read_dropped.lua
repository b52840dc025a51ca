-- Reads cores, sessions and logs that a revert moved away.
-- KEYS: the cores, the sessions, their logs
-- ARGV: 1 how many cores, 2 how many sessions
-- Returns: for each core and session its hash and its log
-- Errors: none
local cores, sessions = tonumber(ARGV[1]), tonumber(ARGV[2])
local reply = {}
for i = 1, cores + sessions do
  local log = i > cores and redis.call('LRANGE', KEYS[i + sessions], 0, -1) or {}
  reply[i] = {redis.call('HGETALL', KEYS[i]), log}
end
return reply

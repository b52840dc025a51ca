-- Reads cores, sessions and logs that a revert moved away. What is of another type, since a bare
-- writer has put it there, comes as Redis dumps it.
-- KEYS: the cores, the sessions, their logs
-- ARGV: 1 how many cores, 2 how many sessions
-- Returns: for each core and session its hash and its log
-- Errors: none
local cores, sessions = tonumber(ARGV[1]), tonumber(ARGV[2])

local function read(key, expected)
  local found = redis.call('TYPE', key).ok
  if found == 'none' then return {} end
  if found == 'hash' and expected == 'hash' then return redis.call('HGETALL', key) end
  if found == 'list' and expected == 'list' then return redis.call('LRANGE', key, 0, -1) end
  local dumped = redis.call('DUMP', key)
  return expected == 'hash' and {found, dumped} or {dumped}
end

local reply = {}
for i = 1, cores + sessions do
  local log = i > cores and read(KEYS[i + sessions], 'list') or {}
  reply[i] = {read(KEYS[i], 'hash'), log}
end
return reply

-- Reads a core and its sessions, at one instant.
-- Nothing is read where the core points at other sessions than expected: the reply says at which.
-- KEYS: 1 core, then the sessions, the sessions' logs
-- ARGV: 1 how many sessions, 2 how many reference fields; then the fields, what they hold
-- Returns: 1, the core's field, value, … (nothing where it is not loaded), then for each session
--          its log's length, field, value, …; or 0 and what the fields hold
-- Errors: WRONGTYPE
local sessions, fields = tonumber(ARGV[1]), tonumber(ARGV[2])
local expected, found = true, {}
for i = 1, fields do
  found[i] = redis.call('HGET', KEYS[1], ARGV[2 + i]) or ''
  expected = expected and found[i] == ARGV[2 + fields + i]
end
if not expected then return {0, found} end
local reply = {1, redis.call('HGETALL', KEYS[1])}
for i = 1, sessions do
  local session = redis.call('HGETALL', KEYS[1 + i])
  table.insert(session, 1, redis.call('LLEN', KEYS[1 + sessions + i]))
  reply[2 + i] = session
end
return reply

-- Reads a core and its sessions, at one instant.
-- Nothing is read if the core points at other sessions than expected: the reply says at which.
-- Uses: keys, references
-- KEYS: 1 core, then the sessions, the sessions' logs
-- ARGV: 1, packed: references (each a field and what it should hold), sessions (how many)
-- Returns: 1, the core's field, value, … (nothing if it is not loaded), then for each session
--          its log's length, field, value, …; or 0 and what the fields hold
-- Errors: WRONGTYPE
local core = KEYS[1]
local args = cmsgpack.unpack(ARGV[1])
local next_keys, count = keys_after(1), args.sessions
local sessions, logs = next_keys(count), next_keys(count)

local session_ids, as_expected = read_references(core, args.references)
if not as_expected then return {0, session_ids} end
local reply = {1, redis.call('HGETALL', core)}
for i, session in ipairs(sessions) do
  local part = redis.call('HGETALL', session)
  table.insert(part, 1, redis.call('LLEN', logs[i]))
  reply[#reply + 1] = part
end
return reply

-- Reads of a core, before a restore, whether it is live, its version, and where it points.
-- KEYS: 1 core
-- ARGV: the reference fields
-- Returns: 1 if the core exists, 2 if it is no hash, else 0; its version or ""; what the fields hold or ""
-- Errors: none
local core, reference_fields = KEYS[1], ARGV
if redis.call('EXISTS', core) == 0 then return {0, ''} end
if redis.call('TYPE', core).ok ~= 'hash' then return {2, ''} end
local values = redis.call('HMGET', core, 'version', unpack(reference_fields))
local reply = {1}
for i = 1, 1 + #reference_fields do reply[1 + i] = values[i] or '' end
return reply

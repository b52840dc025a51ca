-- Looks at a character before a restore: is it live, what is its version, where does it point?
-- KEYS: 1 core
-- ARGV: the reference fields
-- Returns: 1 if the core exists, else 0; its version or ""; what the fields hold or ""
-- Errors: none
if redis.call('EXISTS', KEYS[1]) == 0 then return {0, ''} end
local held = redis.pcall('HMGET', KEYS[1], 'version', unpack(ARGV))
if held.err then return {1, ''} end
local reply = {1}
for i = 1, 1 + #ARGV do reply[1 + i] = held[i] or '' end
return reply

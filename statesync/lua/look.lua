-- Looks at a character before a restore: is it live, and what is its version?
-- KEYS: 1 core
-- ARGV: none
-- Returns: 1 if the core exists, else 0; its version or ""
-- Errors: none
if redis.call('EXISTS', KEYS[1]) == 0 then return {0, ''} end
local version = redis.pcall('HGET', KEYS[1], 'version')
if type(version) ~= 'string' then version = '' end
return {1, version}

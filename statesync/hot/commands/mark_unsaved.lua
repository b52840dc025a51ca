-- Marks a character dirty whose core is not the saved one although nothing says so: its mark was
-- lost, or a bare writer forgot it. Or whose session is known not to be the saved one, if it still
-- points at it. Whoever is dirty, claimed or quarantined is left alone.
-- KEYS: 1 core, 2 dirty, 3 claimed, 4 since, 5 quarantine
-- ARGV: 1 char_id, 2 the reference field of an unsaved session or "", 3 the session's id or ""
-- Returns: 1 if it was marked, else 0
-- Errors: none
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local held = redis.pcall('HMGET', KEYS[1], 'version', 'saved_version', ARGV[2])
if held.err then return 0 end
if held[2] and held[1] == held[2] and (ARGV[2] == '' or held[3] ~= ARGV[3]) then return 0 end
if redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 1 or redis.call('ZSCORE', KEYS[3], ARGV[1])
    or redis.call('HEXISTS', KEYS[5], ARGV[1]) == 1 then
  return 0
end
redis.call('SADD', KEYS[2], ARGV[1])
local now = redis.call('TIME')
redis.call('ZADD', KEYS[4], 'NX', now[1] * 1000 + math.floor(now[2] / 1000), ARGV[1])
return 1

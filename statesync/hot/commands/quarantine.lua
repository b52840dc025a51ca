-- Sets a character aside that cannot be saved: its data stays, the queue goes on.
-- KEYS: 1 claimed, 2 quarantine
-- ARGV: 1 char_id, 2 token, 3 error, 4 field or ""
-- Returns: 1 if the claim was still ours, else 0
-- Errors: none
if redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local entry = {error = ARGV[3], field = cjson.null, attempts = 1, first_at = now, last_at = now}
if ARGV[4] ~= '' then entry.field = ARGV[4] end
local old = redis.call('HGET', KEYS[2], ARGV[1])
if old then
  local known, before = pcall(cjson.decode, old)
  if known and type(before) == 'table' then
    entry.attempts = (tonumber(before.attempts) or 0) + 1
    entry.first_at = tonumber(before.first_at) or now
  end
end
redis.call('HSET', KEYS[2], ARGV[1], cjson.encode(entry))
return 1

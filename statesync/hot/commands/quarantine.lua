-- Sets a character aside that cannot be saved: its data stays, the queue goes on.
-- Uses: at_maxmemory, clock, types, quarantine
-- KEYS: 1 claimed, 2 quarantine
-- ARGV: 1 char_id, 2 token, 3 error, 4 field or ""
-- Returns: 1 if the claim was still ours, else 0
-- Errors: WRONGTYPE with the key's number
local claimed, quarantine = KEYS[1], KEYS[2]
local char_id, token, reason, field = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if redis.call('ZSCORE', claimed, char_id) ~= token then return 0 end
local refused = type_error(2, 'hash')
if refused then return refused end
redis.call('ZREM', claimed, char_id)
local before = redis.call('HGET', quarantine, char_id)
local entry = quarantine_entry(before, reason, field ~= '' and field or cjson.null)
redis.call('HSET', quarantine, char_id, entry)
return 1

-- Notes that a server refuses a worker's work. It counts on from the note before, if that has not ended.
-- Uses: at_maxmemory, clock, types
-- KEYS: 1 troubles
-- ARGV: 1 server:work, 2 error, 3 for how many ms the note holds unless there is news
-- Returns: nothing
-- Errors: WRONGTYPE with the key's number
local troubles = KEYS[1]
local name, reason, keep_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local refused = type_error(1, 'hash')
if refused then return refused end
local now = now_ms()
local note = {error = reason, since_ms = now, last_ms = now, until_ms = now + keep_ms}
local readable, before = pcall(cjson.decode, redis.call('HGET', troubles, name) or '')
if readable and type(before) == 'table' and (tonumber(before.until_ms) or 0) > now then
  note.since_ms = tonumber(before.since_ms) or now
end
redis.call('HSET', troubles, name, cjson.encode(note))
redis.call('PEXPIRE', troubles, integer(keep_ms))

-- Gives a claim back: if the character has unsaved changes it is dirty again, and any sweep may claim
-- it. One that was claimed clean gets its mark from mark_unsaved.lua, if it is loaded.
-- Uses: at_maxmemory, types
-- KEYS: 1 dirty, 2 claimed, 3 since
-- ARGV: 1 char_id, 2 token
-- Returns: 1 if the claim was still ours, else 0
-- Errors: WRONGTYPE with the key's number
local dirty, claimed, since = KEYS[1], KEYS[2], KEYS[3]
local char_id, token = ARGV[1], ARGV[2]
local refused = marks_error(1, 'set', 'zset', 'zset')
if refused then return refused end
if redis.call('ZSCORE', claimed, char_id) ~= token then return 0 end
if redis.call('ZSCORE', since, char_id) then redis.call('SADD', dirty, char_id) end
return redis.call('ZREM', claimed, char_id)

-- Gives a claim back: the character is dirty again and any sweep may claim it.
-- KEYS: 1 dirty, 2 claimed
-- ARGV: 1 char_id, 2 token
-- Returns: 1 if the claim was still ours, else 0
-- Errors: none
local dirty, claimed = KEYS[1], KEYS[2]
local char_id, token = ARGV[1], ARGV[2]
if redis.call('ZSCORE', claimed, char_id) ~= token then return 0 end
redis.call('SADD', dirty, char_id)
return redis.call('ZREM', claimed, char_id)

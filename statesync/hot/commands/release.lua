-- Gives a claim back: the character is dirty again and any sweep may claim it.
-- KEYS: 1 dirty, 2 claimed
-- ARGV: 1 char_id, 2 token
-- Returns: 1 if the claim was still ours, else 0
-- Errors: none
if redis.call('ZSCORE', KEYS[2], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('SADD', KEYS[1], ARGV[1])
return redis.call('ZREM', KEYS[2], ARGV[1])

-- Marks a quarantined character dirty again; the entry goes when the character is saved.
-- What is no character id cannot be retried: its entry stays.
-- KEYS: 1 quarantine, 2 dirty
-- ARGV: 1 char_id
-- Returns: 1 if it was in quarantine, else 0
-- Errors: none
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('SADD', KEYS[2], ARGV[1])
return 1

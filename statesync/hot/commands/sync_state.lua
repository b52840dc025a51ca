-- Reads the marks of one character.
-- KEYS: 1 dirty, 2 claimed, 3 since, 4 quarantine
-- ARGV: 1 char_id
-- Returns: 1 if dirty, else 0; the claim's token or ""; ms of the first unsaved change or "";
--          the quarantine entry or ""
-- Errors: none
return {
  redis.call('SISMEMBER', KEYS[1], ARGV[1]), redis.call('ZSCORE', KEYS[2], ARGV[1]) or '',
  redis.call('ZSCORE', KEYS[3], ARGV[1]) or '', redis.call('HGET', KEYS[4], ARGV[1]) or ''}

-- Deletes what a revert moved away: it is recorded.
-- Uses: at_maxmemory
-- KEYS: 1 dropped, then the cores, sessions and logs
-- ARGV: 1 the id under which it is kept
-- Returns: 1
-- Errors: none
redis.call('HDEL', KEYS[1], ARGV[1])
for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end
return 1

-- Says whether a sweep is to be counted: none was for a round, or the two servers are not as they remember
-- each other. Then one of them went back or has started, or a count is under way.
-- Uses: clock, types, comparison
-- KEYS: 1 servers
-- ARGV: 1 PostgreSQL's sweeps, 2 its run id, 3 Redis' sweeps as PostgreSQL remembers them, 4 its run
--       id or "", 5 round_ms
-- Returns: 1 or 0
-- Errors: WRONGTYPE with the key's number
local servers = KEYS[1]
local postgresql_sweeps, postgresql_run_id, redis_sweeps, run_id = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local round_ms = tonumber(ARGV[5])
local refused = type_error(1, 'hash')
if refused then return refused end
local memory = redis.call(
  'HMGET', servers, 'sweeps', 'postgresql_sweeps', 'postgresql_run_id', 'counted_ms')
local agree = memory[1] == redis_sweeps and redis_run_id() == run_id
  and memory[2] == postgresql_sweeps and memory[3] == postgresql_run_id
local elapsed_ms = now_ms() - (tonumber(memory[4] or nil) or 0)
if agree and elapsed_ms >= 0 and elapsed_ms < round_ms then return 0 end
return 1

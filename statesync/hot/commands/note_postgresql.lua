-- Notes the counter of PostgreSQL and its run id, once they are committed; unless another sweep has
-- noted its own since.
-- Uses: at_maxmemory, types
-- KEYS: 1 servers
-- ARGV: 1 the sweeps that are remembered or "", 2 PostgreSQL's sweeps, 3 its run id
-- Returns: nothing
-- Errors: WRONGTYPE with the key's number
local servers = KEYS[1]
local remembered, sweeps, run_id = ARGV[1], ARGV[2], ARGV[3]
local refused = type_error(1, 'hash')
if refused then return refused end
if (redis.call('HGET', servers, 'postgresql_sweeps') or '') == remembered then
  redis.call('HSET', servers, 'postgresql_sweeps', sweeps, 'postgresql_run_id', run_id)
end

-- Ends a claim whose snapshot is durable. A change made since the snapshot keeps its dirty mark.
-- Where the claim is lost and the row is ahead of the core, a worker from before a loss of Redis
-- has written over the present: the core is marked, and its next backup finds the conflict.
-- Where the save touched no row because nothing had changed, the version that the snapshot
-- raised goes back to the row's, unless somebody has raised it since.
-- KEYS: 1 dirty, 2 claimed, 3 since, 4 quarantine, 5 core
-- ARGV: 1 char_id, 2 token, 3 version of the snapshot or 0, 4 version that is durable or 0,
--       5 ms of the snapshot
-- Returns: 1 if the claim was still ours, else 0
-- Errors: none
local ours = redis.call('ZSCORE', KEYS[2], ARGV[1]) == ARGV[2]
local durable = tonumber(ARGV[4])
if durable > 0 and redis.call('EXISTS', KEYS[5]) == 1 then
  if ours and durable < tonumber(ARGV[3])
      and redis.call('HGET', KEYS[5], 'version') == ARGV[3] then
    redis.call('HSET', KEYS[5], 'version', ARGV[4])
  end
  local live = tonumber(redis.call('HGET', KEYS[5], 'version') or '') or 0
  local saved = tonumber(redis.call('HGET', KEYS[5], 'saved_version') or '') or -1
  if live < durable then
    redis.call('SADD', KEYS[1], ARGV[1])
  elseif saved < durable then
    redis.call('HSET', KEYS[5], 'saved_version', ARGV[4])
  end
end
if not ours then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
if durable > 0 then redis.call('HDEL', KEYS[4], ARGV[1]) end
if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 1 then
  redis.call('ZADD', KEYS[3], ARGV[5], ARGV[1])
else
  redis.call('ZREM', KEYS[3], ARGV[1])
end
return 1

-- Ends the claims of a snapshot that is durable. A change made since keeps its dirty mark.
-- Where a claim is lost and the row is ahead of the core or session, a worker from before a loss
-- of Redis has written over the present: the character is marked, its next backup finds the
-- conflict. Where the save touched no row because nothing had changed, the version that the
-- snapshot raised goes back to the row's, unless somebody has raised it since.
-- A session that was closed at the snapshot is durable now, so it goes, and the references to it,
-- also of who was not loaded then. It is remembered, so that a slow restore that read it open cannot bring it back.
-- KEYS: 1 dirty, 2 claimed, 3 since, 4 quarantine, then the cores, the sessions, their logs, their
--       evicted
-- ARGV: 1 ms of the snapshot, 2 how many cores, 3 sessions, 4 ms to remember; then for each core
--       char_id, token, version of the snapshot or 0, version that is durable or 0, the sessions it
--       had left; then for each session its reference field, id, version of the snapshot, version
--       that is durable, who had left it, 1 if it was closed
-- Returns: 1 if the first claim was still ours, else 0
-- Errors: none
local cores, sessions = tonumber(ARGV[2]), tonumber(ARGV[3])

local function settle(key, taken, durable, ours, id)
  if durable == 0 or redis.call('EXISTS', key) == 0 then return end
  local text = redis.call('HGET', key, 'version') or ''
  if ours and durable < tonumber(taken) and text == taken then
    text = string.format('%.0f', durable)
    redis.call('HSET', key, 'version', text)
  end
  if (tonumber(text) or 0) < durable then
    redis.call('SADD', KEYS[1], id)
    return
  end
  return true
end

local function untie(key, field, was)
  if was ~= '' and redis.call('HGET', key, field) == was then redis.call('HDEL', key, field) end
end

local first = redis.call('ZSCORE', KEYS[2], ARGV[5]) == ARGV[6]
for i = 1, cores do
  local key, at = KEYS[4 + i], 5 * i
  local id, durable = ARGV[at], tonumber(ARGV[at + 3])
  local ours = redis.call('ZSCORE', KEYS[2], id) == ARGV[at + 1]
  if settle(key, ARGV[at + 2], durable, ours, id) then
    local saved = tonumber(redis.call('HGET', key, 'saved_version') or '') or -1
    if saved < durable then redis.call('HSET', key, 'saved_version', ARGV[at + 3]) end
    if first then untie(key, 'left_sessions', ARGV[at + 4]) end
  end
  if ours then
    redis.call('ZREM', KEYS[2], id)
    if durable > 0 then redis.call('HDEL', KEYS[4], id) end
    if redis.call('SISMEMBER', KEYS[1], id) == 1 then
      redis.call('ZADD', KEYS[3], ARGV[1], id)
    else
      redis.call('ZREM', KEYS[3], id)
    end
  end
end

for i = 1, sessions do
  local key, at = KEYS[4 + cores + i], 5 * cores + 6 * i - 1
  local field, id = ARGV[at], ARGV[at + 1]
  settle(key, ARGV[at + 2], tonumber(ARGV[at + 3]), first, ARGV[5])
  if first then untie(key, 'left_participants', ARGV[at + 4]) end
  if first and ARGV[at + 5] == '1' then
    for j = 1, cores do
      if redis.call('HGET', KEYS[4 + j], field) == id then
        redis.call('HDEL', KEYS[4 + j], field)
        redis.call('HINCRBY', KEYS[4 + j], 'version', 1)
        redis.call('SADD', KEYS[1], ARGV[5 * j])
        redis.call('ZADD', KEYS[3], 'NX', ARGV[1], ARGV[5 * j])
      end
    end
    redis.call('DEL', key, KEYS[4 + cores + sessions + i])
    redis.call('SET', KEYS[4 + cores + 2 * sessions + i], ARGV[at + 3], 'PX', ARGV[4])
  end
end
return first and 1 or 0

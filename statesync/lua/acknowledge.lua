-- Ends the claims of a snapshot that is durable. A change made since keeps its dirty mark.
-- Where a claim is lost and the row is ahead of the core or session, a worker from before a loss
-- of Redis has written over the present: the character is marked, its next backup finds the
-- conflict. Where the save touched no row because nothing had changed, the version that the
-- snapshot raised goes back to the row's, unless somebody has raised it since.
-- Who was tied at the snapshot is tied no more, unless something has tied him anew since: then his
-- entry has another token.
-- A session that was closed at the snapshot is durable now, so it goes, and the references to it,
-- also of who was not loaded then. It is remembered, so that a slow restore that read it open
-- cannot bring it back.
-- KEYS: 1 dirty, 2 claimed, 3 since, 4 quarantine, then the cores, the sessions, their logs, their
--       evicted, the ties
-- ARGV: 1 ms of the snapshot, 2 how many cores, 3 sessions, 4 ties, 5 ms to remember; then for each
--       core char_id, token, version of the snapshot or 0, version that is durable or 0; then for
--       each session its reference field, id, version of the snapshot, version that is durable, 1 if
--       it was closed; then for each tie its id, how many members, for each name, number of its key
--       or 0, token
-- Returns: 1 if the first claim was still ours, else 0
-- Errors: none
local cores, sessions, ties = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

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

local at = 6 + 4 * cores + 5 * sessions
for i = 1, ties do
  local tie, id = KEYS[4 + cores + 3 * sessions + i], ARGV[at]
  for j = at + 2, at + 3 * ARGV[at + 1] + 1, 3 do
    local name, key = ARGV[j], KEYS[tonumber(ARGV[j + 1])]
    if redis.call('HGET', tie, name) == ARGV[j + 2] then
      redis.call('HDEL', tie, name)
      if key and redis.call('HGET', key, 'statesync:tie') == id then
        redis.call('HDEL', key, 'statesync:tie')
      end
    end
  end
  at = at + 2 + 3 * ARGV[at + 1]
end

local first = redis.call('ZSCORE', KEYS[2], ARGV[6]) == ARGV[7]
for i = 1, cores do
  local key = KEYS[4 + i]
  at = 2 + 4 * i
  local id, durable = ARGV[at], tonumber(ARGV[at + 3])
  local ours = redis.call('ZSCORE', KEYS[2], id) == ARGV[at + 1]
  if settle(key, ARGV[at + 2], durable, ours, id) then
    local saved = tonumber(redis.call('HGET', key, 'saved_version') or '') or -1
    if saved < durable then redis.call('HSET', key, 'saved_version', ARGV[at + 3]) end
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
  local key = KEYS[4 + cores + i]
  at = 1 + 4 * cores + 5 * i
  local field, id = ARGV[at], ARGV[at + 1]
  settle(key, ARGV[at + 2], tonumber(ARGV[at + 3]), first, ARGV[6])
  if first and ARGV[at + 4] == '1' then
    for j = 1, cores do
      if redis.call('HGET', KEYS[4 + j], field) == id then
        redis.call('HDEL', KEYS[4 + j], field)
        redis.call('HINCRBY', KEYS[4 + j], 'version', 1)
        redis.call('SADD', KEYS[1], ARGV[2 + 4 * j])
        redis.call('ZADD', KEYS[3], 'NX', ARGV[1], ARGV[2 + 4 * j])
      end
    end
    redis.call('DEL', key, KEYS[4 + cores + sessions + i])
    redis.call('SET', KEYS[4 + cores + 2 * sessions + i], ARGV[at + 3], 'PX', ARGV[5])
  end
end
return first and 1 or 0

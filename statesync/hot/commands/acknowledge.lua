-- Ends the claims of snapshots that are durable. A change made since keeps its dirty mark.
-- Where a claim is lost and the row is ahead of the core or session, a worker from before a loss
-- of Redis has written over the present: the character is marked, its next backup finds the
-- conflict. Where the save touched no row because nothing had changed, the version that the
-- snapshot raised goes back to the row's, unless somebody has raised it since.
-- Who was tied at the snapshot is tied no more, unless something has tied him anew since: then his
-- entry has another token.
-- A session that was closed at the snapshot is durable now, so it goes, and the references to it,
-- also of who was not loaded then. It is remembered, so that a slow restore that read it open
-- cannot bring it back.
-- KEYS: 1 dirty, 2 claimed, 3 since, 4 quarantine; then for each group the cores, the sessions,
--       their logs, their evicted, the ties
-- ARGV: 1, packed in one list: ms to remember; then for each group the ms of its snapshot, how many
--       cores, sessions, ties; for each core char_id, token, version of the snapshot or 0, version
--       that is durable or 0; for each session its reference field, id, version of the snapshot,
--       version that is durable, 1 if it was closed; for each tie its id, how many members, for each
--       name, number of its key or 0, token
-- Returns: for each group 1 if its first claim was still ours, else 0
-- Errors: none
local args = cmsgpack.unpack(ARGV[1])
local ended, ended_at, saved, clean = {}, {}, {}, {}

-- Takes in that a version is durable. Marks the character of id where the row is ahead.
local function settle(key, taken, durable, ours, id)
  if durable == '0' then return end
  local held = redis.pcall('HMGET', key, 'version', 'saved_version')
  if held.err then -- no hash any more: its next backup says so
    redis.call('SADD', KEYS[1], id)
    return
  end
  local version, before = held[1], held[2]
  if not version and redis.call('EXISTS', key) == 0 then return end
  if ours and version == taken and tonumber(durable) < tonumber(taken) then
    version = durable
    redis.call('HSET', key, 'version', version)
  end
  if (tonumber(version or '') or 0) < tonumber(durable) then
    redis.call('SADD', KEYS[1], id)
    return
  end
  return (tonumber(before or '') or -1) < tonumber(durable)
end

local function untie(before, at, ties)
  for i = 1, ties do
    local tie, id = KEYS[before + i], args[at]
    for j = at + 2, at + 3 * args[at + 1] + 1, 3 do
      local name, key = args[j], KEYS[args[j + 1]]
      if redis.pcall('HGET', tie, name) == args[j + 2] then
        redis.call('HDEL', tie, name)
        if key and redis.pcall('HGET', key, 'statesync:tie') == id then
          redis.call('HDEL', key, 'statesync:tie')
        end
      end
    end
    at = at + 2 + 3 * args[at + 1]
  end
  return at
end

-- KEYS[before] and args[at - 1] are the last ones of the group before.
local function acknowledge(before, at)
  local at_ms, cores = args[at], args[at + 1]
  local sessions, ties = args[at + 2], args[at + 3]
  local first_core, first_session = at + 4, at + 4 + 4 * cores
  local next_at = untie(before + cores + 3 * sessions, first_session + 5 * sessions, ties)

  local first
  for i = 1, cores do
    local key, of = KEYS[before + i], first_core + 4 * (i - 1)
    local id, durable = args[of], args[of + 3]
    local ours = redis.call('ZSCORE', KEYS[2], id) == args[of + 1]
    if i == 1 then first = ours end
    if settle(key, args[of + 2], durable, ours, id) then
      redis.call('HSET', key, 'saved_version', durable)
    end
    if ours then
      ended[#ended + 1] = id
      ended_at[#ended] = at_ms
      if durable ~= '0' then saved[#saved + 1] = id end
    end
  end

  for i = 1, sessions do
    local key, of = KEYS[before + cores + i], first_session + 5 * (i - 1)
    local field, id = args[of], args[of + 1]
    settle(key, args[of + 2], args[of + 3], first, args[first_core])
    if first and args[of + 4] == 1 then
      for j = 1, cores do
        if redis.pcall('HGET', KEYS[before + j], field) == id then
          local char_id = args[first_core + 4 * (j - 1)]
          redis.call('HDEL', KEYS[before + j], field)
          redis.call('HINCRBY', KEYS[before + j], 'version', 1)
          redis.call('SADD', KEYS[1], char_id)
          redis.call('ZADD', KEYS[3], 'NX', at_ms, char_id)
        end
      end
      redis.call('DEL', key, KEYS[before + cores + sessions + i])
      redis.call('SET', KEYS[before + cores + 2 * sessions + i], args[of + 3], 'PX', args[1])
    end
  end
  return first and 1 or 0, before + cores + 3 * sessions + ties, next_at
end

local replies, before, at = {}, 4, 2
while at <= #args do replies[#replies + 1], before, at = acknowledge(before, at) end

for from = 1, #ended, 1000 do -- no more can be unpacked than some thousands
  local to = math.min(from + 999, #ended)
  redis.call('ZREM', KEYS[2], unpack(ended, from, to))
  for i, dirty in ipairs(redis.call('SMISMEMBER', KEYS[1], unpack(ended, from, to))) do
    if dirty == 1 then
      redis.call('ZADD', KEYS[3], ended_at[from + i - 1], ended[from + i - 1])
    else
      clean[#clean + 1] = ended[from + i - 1]
    end
  end
end
for from = 1, #clean, 1000 do
  redis.call('ZREM', KEYS[3], unpack(clean, from, math.min(from + 999, #clean)))
end
for from = 1, #saved, 1000 do
  redis.call('HDEL', KEYS[4], unpack(saved, from, math.min(from + 999, #saved)))
end
return replies

-- Ends the claims of snapshots that are durable. A change made since keeps its dirty mark.
-- If a claim is lost and the row is ahead of the core or session, a worker from before a loss of
-- Redis has written over the present: the character is marked, its next backup finds the conflict.
-- If the save touched no row because nothing had changed, the version that the snapshot raised goes
-- back to the row's, unless it has been raised since.
-- What was tied at the snapshot is tied no more, unless it has been tied anew since: then its entry
-- has another token.
-- A session that was closed at the snapshot is durable now, so it goes, and the references to it,
-- also those of characters that were not loaded then. Its tombstone stops a slow restore that read
-- it open.
-- Uses: types
-- KEYS: 1 dirty, 2 claimed, 3 since, 4 quarantine; then for each group the cores, the sessions,
--       their logs, their tombstones, the ties
-- ARGV: 1, packed: tombstone_ms, and groups, each of them at_ms of its snapshot, cores (char_id,
--       token, snapshot_version or 0, durable_version or 0), sessions (reference field, id,
--       snapshot_version, durable_version, whether it was closed), ties (id, members: name, number
--       of the key or 0, token); without the last two if it has none
-- Returns: for each group 1 if its first claim was still ours, else 0
-- Errors: WRONGTYPE with the key's number
local dirty, claimed, since, quarantine = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local args = cmsgpack.unpack(ARGV[1])
local ended, ended_at_ms, saved, clean = {}, {}, {}, {}

-- Takes in that a version is durable; marks the character if the row is ahead. Returns whether
-- durable_version is news to a core.
local function acknowledge_version(key, snapshot_version, durable_version, is_ours, char_id)
  if durable_version == '0' then return end
  local versions = redis.pcall('HMGET', key, 'version', 'saved_version')
  if versions.err then -- no hash any more: its next backup says so
    redis.call('SADD', dirty, char_id)
    return
  end
  local version, saved_version = versions[1], versions[2]
  if not version and redis.call('EXISTS', key) == 0 then return end
  local durable_number = tonumber(durable_version)
  if is_ours and version == snapshot_version and durable_number < tonumber(snapshot_version) then
    version = durable_version
    redis.call('HSET', key, 'version', version)
  end
  if (tonumber(version or '') or 0) < durable_number then
    redis.call('SADD', dirty, char_id)
    return
  end
  return (tonumber(saved_version or '') or -1) < durable_number
end

local function untie(key, tie, members)
  for _, member in ipairs(members) do
    local name, number, token = unpack(member)
    if redis.pcall('HGET', key, name) == token then
      redis.call('HDEL', key, name)
      local hash = KEYS[number]
      if hash and redis.pcall('HGET', hash, 'statesync:tie') == tie then
        redis.call('HDEL', hash, 'statesync:tie')
      end
    end
  end
end

local function clear_reference(core, field, session_id, char_id, at_ms)
  if redis.pcall('HGET', core, field) == session_id then
    redis.call('HDEL', core, field)
    redis.pcall('HINCRBY', core, 'version', 1) -- if it is no number, the next backup says so
    redis.call('SADD', dirty, char_id)
    redis.call('ZADD', since, 'NX', at_ms, char_id)
  end
end

-- Ends the claim on a core. Returns whether it was still ours.
local function acknowledge_core(key, core, at_ms)
  local char_id, token, snapshot_version, durable_version = core[1], core[2], core[3], core[4]
  local is_ours = redis.call('ZSCORE', claimed, char_id) == token
  if acknowledge_version(key, snapshot_version, durable_version, is_ours, char_id) then
    redis.call('HSET', key, 'saved_version', durable_version)
  end
  if is_ours then
    ended[#ended + 1] = char_id
    ended_at_ms[#ended] = at_ms
    if durable_version ~= '0' then saved[#saved + 1] = char_id end
  end
  return is_ours
end

-- Acknowledges a group, whose keys follow KEYS[before]. Returns whether its first claim was ours.
local function acknowledge(before, at_ms, cores, sessions, ties)
  local last_core = before + #cores
  local last_session = last_core + #sessions
  for i = 1, #ties do
    local id, members = unpack(ties[i])
    untie(KEYS[last_core + 3 * #sessions + i], id, members)
  end
  local is_ours = acknowledge_core(KEYS[before + 1], cores[1], at_ms)
  for i = 2, #cores do acknowledge_core(KEYS[before + i], cores[i], at_ms) end
  for i = 1, #sessions do
    local field, id, snapshot_version, durable_version, was_closed = unpack(sessions[i])
    local key, log = KEYS[last_core + i], KEYS[last_session + i]
    local tombstone = KEYS[last_session + #sessions + i]
    acknowledge_version(key, snapshot_version, durable_version, is_ours, cores[1][1])
    if is_ours and was_closed then
      for j, core in ipairs(cores) do
        clear_reference(KEYS[before + j], field, id, core[1], at_ms)
      end
      redis.call('DEL', key, log)
      redis.call('SET', tombstone, durable_version, 'PX', args.tombstone_ms)
    end
  end
  return is_ours
end

local refused = marks_error(1, 'set', 'zset', 'zset', 'hash')
if refused then return refused end
local NONE, replies, before = {}, {}, 4
for i, group in ipairs(args.groups) do
  local at_ms, cores, sessions, ties = group[1], group[2], group[3] or NONE, group[4] or NONE
  replies[i] = acknowledge(before, at_ms, cores, sessions, ties) and 1 or 0
  before = before + #cores + 3 * #sessions + #ties
end

local UNPACKED = 1000 -- unpack gives no more than some thousands at once
for first = 1, #ended, UNPACKED do
  local last = math.min(first + UNPACKED - 1, #ended)
  redis.call('ZREM', claimed, unpack(ended, first, last))
  for i, is_dirty in ipairs(redis.call('SMISMEMBER', dirty, unpack(ended, first, last))) do
    local char_id, at_ms = ended[first + i - 1], ended_at_ms[first + i - 1]
    if is_dirty == 1 then
      redis.call('ZADD', since, at_ms, char_id)
    else
      clean[#clean + 1] = char_id
    end
  end
end
for first = 1, #clean, UNPACKED do
  redis.call('ZREM', since, unpack(clean, first, math.min(first + UNPACKED - 1, #clean)))
end
for first = 1, #saved, UNPACKED do
  redis.call('HDEL', quarantine, unpack(saved, first, math.min(first + UNPACKED - 1, #saved)))
end
return replies

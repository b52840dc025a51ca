-- Ends the claims of snapshots that are durable. A change made since keeps its dirty mark.
-- The seals before the durable one go: no row has them any more. If the save touched no row, because
-- nothing had changed, its own seal is withdrawn, under the claim, and the version that the snapshot
-- raised is the row's again, unless it has been raised since. A row whose seal Redis does not know is
-- of another history: if the claim is still ours it holds the same as Redis, which takes over its
-- seal; if not, the character is marked, and its next backup settles it. A claim of a Redis that has
-- forgotten our snapshot, since it went back meanwhile, is not ours: the core lacks its seal.
-- What was tied at the snapshot is tied no more, unless it has been tied anew since: then its entry
-- has another token.
-- A session that was closed at the snapshot is durable now, so it goes, and the references to it,
-- also those of characters that were not loaded then. Its tombstone stops a slow restore that read
-- it open.
-- Uses: clock, types, mark, fields, seals
-- KEYS: 1 dirty, 2 claimed, 3 since, 4 quarantine, 5 seals, 6 nonces; then for each group the cores,
--       the sessions, their logs, their tombstones, the ties
-- ARGV: 1, packed: tombstone_ms, and groups, each of them at_ms of its snapshot, its seal, cores
--       (char_id, token, snapshot_version or 0, durable_version or 0, the row's seal, the nonces of
--       the snapshot or ""), sessions (reference field, id, snapshot_version, durable_version, the
--       row's seal, whether it was closed), ties (id, members: name, number of the key or 0, token);
--       without the last two if it has none. A row's seal is true if it is that of the snapshot, ""
--       if there is none
-- Returns: for each group 1 if its first claim was still ours, else 0
-- Errors: WRONGTYPE with the key's number
local dirty, claimed, since, quarantine, seals, nonces =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local args = cmsgpack.unpack(ARGV[1])
local ended, ended_at_ms, saved, clean = {}, {}, {}, {}
local refused = marks_error(1, 'set', 'zset', 'zset', 'hash', 'hash', 'hash')
if refused then return refused end

-- The entries of all members, those that this script has changed, and the tokens of the claims, by id.
local words_of, new_words, token_of = {}, {}, {}
local function read_entries()
  local ids, session_ids = {}, {}
  for _, group in ipairs(args.groups) do
    for _, core in ipairs(group[3]) do ids[#ids + 1] = core[1] end
    for _, session in ipairs(group[4] or {}) do session_ids[#session_ids + 1] = session[2] end
  end
  for i, words in ipairs(read_fields(seals, ids)) do words_of[ids[i]] = words end
  for i, words in ipairs(read_fields(seals, session_ids)) do words_of[session_ids[i]] = words end
  for first = 1, #ids, 1000 do -- unpack gives no more than some thousands at once
    local last = math.min(first + 999, #ids)
    local tokens = redis.call('ZMSCORE', claimed, unpack(ids, first, last))
    for i, token in ipairs(tokens) do token_of[ids[first + i - 1]] = token end
  end
end
read_entries()

-- Takes in which seal a row has; what was laid over it is saved now. Returns whether the row is of
-- our history, and whether Redis remembers the snapshot, so that a claim is ours.
local function acknowledge_seal(id, seal, durable_seal, holds_claim)
  local words = words_of[id] or ''
  local is_last = is_last_word(words, seal)
  local is_ours = holds_claim and (is_last or has_word(words, seal))
  local is_known = durable_seal == '' or (durable_seal == seal and is_last)
    or has_word(words, durable_seal)
  if is_known and durable_seal ~= '' then
    if has_word(words, 'laid') then words = without_word(words, 'laid') end
    words = words_from(words, durable_seal)
  elseif not is_known and is_ours then
    words = words_of_row(words, durable_seal)
  end
  if is_ours and seal ~= durable_seal then words = without_word(words, seal) end
  if words ~= (words_of[id] or '') then
    words_of[id], new_words[id] = words, words
  end
  return is_known or is_ours, is_ours
end

-- Takes in that a version is durable, of the core of a character or of a session; marks the
-- character if the row is of another history. Returns whether it is news.
local function acknowledge_version(
  key, id, snapshot_version, durable_version, seal, durable_seal, holds_claim, char_id)
  if durable_version == '0' then return end
  local current = redis.pcall('HMGET', key, 'version', 'saved_version')
  if current.err then -- no hash any more: its next backup says so
    redis.call('SADD', dirty, char_id)
    return
  end
  local version, saved_version = current[1], current[2]
  if id ~= char_id then saved_version = saved_version_of(words_of[id] or '') end
  if not version and redis.call('EXISTS', key) == 0 then return end
  local is_known, is_ours = acknowledge_seal(id, seal, durable_seal, holds_claim)
  local durable_number = tonumber(durable_version)
  local is_news = (tonumber(saved_version or '') or -1) < durable_number
  if is_ours and version == snapshot_version and version ~= durable_version then
    version = durable_version
    redis.call('HSET', key, 'version', version)
  end
  local is_behind = not is_ours and (tonumber(version or '') or 0) < durable_number
  if not is_known or is_behind then
    if is_news then mark(dirty, since, char_id) end
    return
  end
  return is_news or is_ours and saved_version ~= durable_version
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

local function clear_reference(core, field, session_id, char_id)
  if redis.pcall('HGET', core, field) == session_id then
    redis.call('HDEL', core, field)
    redis.pcall('HINCRBY', core, 'version', 1) -- if it is no number, the next backup says so
    mark(dirty, since, char_id)
  end
end

-- Drops the nonces of a snapshot: they came first.
local function drop_nonces(char_id, durable)
  local current = durable ~= '' and redis.call('HGET', nonces, char_id)
  if current == durable then
    redis.call('HDEL', nonces, char_id)
  elseif current and string.sub(current, 1, #durable + 1) == durable .. ' ' then
    redis.call('HSET', nonces, char_id, string.sub(current, #durable + 2))
  end
end

-- Ends the claim on a core. Returns whether it was still ours.
local function acknowledge_core(
  key, at_ms, seal, char_id, token, snapshot_version, durable_version, durable_seal, durable_nonces)
  if durable_seal == true then durable_seal = seal end
  local words = words_of[char_id] or ''
  local is_remembered = durable_version == '0' or is_last_word(words, seal) or has_word(words, seal)
  local is_ours = is_remembered and token_of[char_id] == token
  if acknowledge_version(
    key, char_id, snapshot_version, durable_version, seal, durable_seal, is_ours, char_id) then
    redis.call('HSET', key, 'saved_version', durable_version)
  end
  drop_nonces(char_id, durable_nonces)
  if is_ours then
    ended[#ended + 1] = char_id
    ended_at_ms[#ended] = at_ms
    if durable_version ~= '0' then saved[#saved + 1] = char_id end
  end
  return is_ours
end

-- Acknowledges a group, whose keys follow KEYS[before]. Returns whether its first claim was ours.
local function acknowledge(before, at_ms, seal, cores, sessions, ties)
  local last_core = before + #cores
  local last_session = last_core + #sessions
  for i = 1, #ties do
    local id, members = unpack(ties[i])
    untie(KEYS[last_core + 3 * #sessions + i], id, members)
  end
  local is_ours = acknowledge_core(KEYS[before + 1], at_ms, seal, unpack(cores[1]))
  local any_ours = is_ours -- whoever has a claim on a member has all of the group
  for i = 2, #cores do
    any_ours = acknowledge_core(KEYS[before + i], at_ms, seal, unpack(cores[i])) or any_ours
  end
  for i = 1, #sessions do
    local field, id, snapshot_version, durable_version, durable_seal, was_closed =
      unpack(sessions[i])
    if durable_seal == true then durable_seal = seal end
    local key, log = KEYS[last_core + i], KEYS[last_session + i]
    local tombstone = KEYS[last_session + #sessions + i]
    local is_remembered = any_ours and has_word(words_of[id] or '', seal)
    local is_news = acknowledge_version(
      key, id, snapshot_version, durable_version, seal, durable_seal, any_ours, cores[1][1])
    if is_news then
      words_of[id] = with_saved_version(words_of[id] or '', durable_version)
      new_words[id] = words_of[id]
    end
    if is_remembered and was_closed then
      for j, core in ipairs(cores) do
        clear_reference(KEYS[before + j], field, id, core[1])
      end
      redis.call('DEL', key, log)
      redis.call('SET', tombstone, durable_version, 'PX', args.tombstone_ms)
      words_of[id], new_words[id] = '', ''
    end
  end
  return is_ours
end

local NONE, replies, before = {}, {}, 6
for i, group in ipairs(args.groups) do
  local at_ms, seal, cores = group[1], group[2], group[3]
  local sessions, ties = group[4] or NONE, group[5] or NONE
  replies[i] = acknowledge(before, at_ms, seal, cores, sessions, ties) and 1 or 0
  before = before + #cores + 3 * #sessions + #ties
end
write_words(seals, new_words)

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

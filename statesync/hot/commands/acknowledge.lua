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
-- How long the first unsaved change of a character was not durable is counted in a histogram.
-- Uses: at_maxmemory, clock, types, mark, fields, seals
-- KEYS: 1 dirty, 2 claimed, 3 since, 4 quarantine, 5 seals, 6 nonces, 7 histograms; then for each
--       group the cores, the sessions, their logs, their tombstones, the ties
-- ARGV: 1, packed: tombstone_ms; histogram and bounds, its name and bounds in ms; and groups, each of them at_ms of its snapshot, its seal, of its
--       cores the ids, tokens, versions at the snapshot, durable versions (0 if nothing is saved), and
--       by place the seals of those rows that have another one ("" for none), and the nonces of the
--       snapshot; sessions (reference field, id, version, durable version, the row's seal, whether it
--       was closed), ties (id, members: name, number of the key or 0, token). Plain characters are
--       one group: whatever is in none with others may stand beside them
-- Returns: the places of the cores, counted through all groups, whose claims were not ours any more
-- Errors: WRONGTYPE with the key's number
local dirty, claimed, since, quarantine, seals, nonces, histograms =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local args = cmsgpack.unpack(ARGV[1])
local ended, ended_at_ms, saved, clean = {}, {}, {}, {}
local refused = marks_error(1, 'set', 'zset', 'zset', 'hash', 'hash', 'hash')
if refused then return refused end

-- The entries of all members, those that this script has changed, and the tokens of the claims, by id.
local words_of, new_words, token_of = {}, {}, {}
local UNPACKED = 1000 -- unpack gives no more than some thousands at once
local function read_entries()
  local ids, session_ids = {}, {}
  for _, group in ipairs(args.groups) do
    for _, char_id in ipairs(group[3]) do ids[#ids + 1] = char_id end
    for _, session in ipairs(group[9]) do session_ids[#session_ids + 1] = session[2] end
  end
  for i, words in ipairs(read_fields(seals, ids)) do words_of[ids[i]] = words end
  for i, words in ipairs(read_fields(seals, session_ids)) do words_of[session_ids[i]] = words end
  for first = 1, #ids, UNPACKED do
    local last = math.min(first + UNPACKED - 1, #ids)
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
  local current = redis.pcall('HMGET', key, 'version', 'saved_version')
  if current.err then -- no hash any more: its next backup says so
    redis.call('SADD', dirty, char_id)
    return
  end
  local version, saved_version = current[1], current[2]
  if id ~= char_id then saved_version = saved_version_of(words_of[id] or '') end
  if not version and redis.call('EXISTS', key) == 0 then return end
  version, saved_version = tonumber(version or ''), tonumber(saved_version or '')
  local is_known, is_ours = acknowledge_seal(id, seal, durable_seal, holds_claim)
  local is_news = (saved_version or -1) < durable_version
  if is_ours and version == snapshot_version and version ~= durable_version then
    version = durable_version
    redis.call('HSET', key, 'version', integer(version))
  end
  local is_behind = not is_ours and (version or 0) < durable_version
  if not is_known or is_behind then
    if is_news then mark(dirty, since, char_id) end
    return
  end
  return is_news or is_ours and saved_version ~= durable_version
end

-- Takes in that the version of its snapshot is durable, of a core whose claim is ours, and whose last
-- seal is that of the snapshot: so it is with most. HSET says whether the field is new, so that
-- no core has to be read for that it is there.
local function acknowledge_own(key, id, words, version, seal)
  local added = redis.pcall('HSET', key, 'saved_version', integer(version))
  if type(added) == 'table' then -- no hash any more: its next backup says so
    redis.call('SADD', dirty, id)
  elseif added == 1 and redis.call('HLEN', key) == 1 then
    redis.call('DEL', key) -- the core is gone
  else
    local has_notes = string.find(words, '%a')
    new_words[id] = has_notes and words_from(without_word(words, 'laid'), seal) or seal
  end
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
  local current = redis.call('HGET', nonces, char_id)
  if current == durable then
    redis.call('HDEL', nonces, char_id)
  elseif current and string.sub(current, 1, #durable + 1) == durable .. ' ' then
    redis.call('HSET', nonces, char_id, string.sub(current, #durable + 2))
  end
end

-- Ends the claim on a core. Returns whether it was still ours.
local function acknowledge_core(key, at_ms, seal, id, token, version, durable_version, durable_seal)
  local is_ours = token_of[id] == token
  local is_saved = durable_version ~= 0
  if is_saved then
    local words = words_of[id] or ''
    local is_last = is_last_word(words, seal)
    is_ours = is_ours and (is_last or has_word(words, seal))
    if is_ours and is_last and not durable_seal and version == durable_version then
      acknowledge_own(key, id, words, version, seal)
    elseif acknowledge_version(
      key, id, version, durable_version, seal, durable_seal or seal, is_ours, id) then
      redis.call('HSET', key, 'saved_version', integer(durable_version))
    end
  end
  if is_ours then
    ended[#ended + 1] = id
    ended_at_ms[#ended] = at_ms
    if is_saved then saved[#saved + 1] = id end
  end
  return is_ours
end

local function acknowledge_session(key, log, tombstone, seal, session, any_ours, ids, before)
  local field, id, version, durable_version, durable_seal, was_closed = unpack(session)
  if durable_seal == true then durable_seal = seal end
  local is_remembered = any_ours and has_word(words_of[id] or '', seal)
  local is_news = durable_version ~= 0 and acknowledge_version(
    key, id, version, durable_version, seal, durable_seal, any_ours, ids[1])
  if is_news then
    words_of[id] = with_saved_version(words_of[id] or '', integer(durable_version))
    new_words[id] = words_of[id]
  end
  if is_remembered and was_closed then
    for i = 1, #ids do clear_reference(KEYS[before + i], field, id, ids[i]) end
    redis.call('DEL', key, log)
    redis.call('SET', tombstone, integer(durable_version), 'PX', args.tombstone_ms)
    words_of[id], new_words[id] = '', ''
  end
end

local replies = {}

-- Acknowledges a group, whose keys follow KEYS[before]; first is how many cores came before.
-- Returns how many keys it has.
local function acknowledge(before, first, group)
  local at_ms, seal, ids, tokens, versions, durable, row_seals, nonces_of, sessions, ties =
    unpack(group)
  local last_core = before + #ids
  local last_session = last_core + #sessions
  for i = 1, #ties do
    local id, members = unpack(ties[i])
    untie(KEYS[last_core + 3 * #sessions + i], id, members)
  end
  local any_ours = false -- whoever has a claim on a member has all of the group
  for i = 1, #ids do
    local is_ours = acknowledge_core(
      KEYS[before + i], at_ms, seal, ids[i], tokens[i], versions[i], durable[i], row_seals[i])
    any_ours = any_ours or is_ours
    if not is_ours then replies[#replies + 1] = first + i - 1 end
  end
  for i, durable_nonces in pairs(nonces_of) do drop_nonces(ids[i], durable_nonces) end
  for i = 1, #sessions do
    local tombstone = KEYS[last_session + #sessions + i]
    acknowledge_session(
      KEYS[last_core + i], KEYS[last_session + i], tombstone, seal, sessions[i], any_ours, ids, before)
  end
  return #ids + 3 * #sessions + #ties
end

local before, cores = 7, 0
for _, group in ipairs(args.groups) do
  before = before + acknowledge(before, cores, group)
  cores = cores + #group[3]
end
write_words(seals, new_words)

-- Counts how long the changes of characters were not durable, by the server's clock. If others have
-- put something else there, it is left alone. What another writer's time makes ten years is no wait: it
-- would spoil the sum for ever.
local LONGEST_MS = 10 * 366 * 86400000
local function count_waits(char_ids)
  local now, infinite, bounds, counts, sum = now_ms(), math.huge, args.bounds, {}, 0
  local low, high = -1, -1 -- of the last bucket: many of a batch fall into the same one
  for _, score in ipairs(redis.call('ZMSCORE', since, unpack(char_ids))) do
    local wait = score and now - score
    if wait and math.abs(wait) < LONGEST_MS then
      if wait < 0 then wait = 0 end -- the clock has gone back
      if wait <= low or wait > high then
        local i = 1
        while bounds[i] and wait > bounds[i] do i = i + 1 end
        low, high = bounds[i - 1] or -1, bounds[i] or infinite
      end
      counts[high], sum = (counts[high] or 0) + 1, sum + wait
    end
  end
  for bound, count in pairs(counts) do
    redis.pcall('HINCRBY', histograms, args.histogram .. ' ' .. bound, count)
  end
  if sum > 0 then redis.pcall('HINCRBY', histograms, args.histogram .. ' sum', integer(sum)) end
end

for first = 1, #saved, UNPACKED do
  local char_ids = {unpack(saved, first, math.min(first + UNPACKED - 1, #saved))}
  count_waits(char_ids)
  redis.call('HDEL', quarantine, unpack(char_ids))
end
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
return replies

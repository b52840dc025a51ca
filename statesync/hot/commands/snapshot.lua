-- Reads claimed characters, each with its group (its sessions, their participants, whatever is tied
-- to one of them), at one instant, and raises their versions, which orders all snapshots. Most are
-- alone. Many groups in one script share its call and its arguments; a refusal of one leaves the
-- others alone.
-- The claims cover every change made so far, so the dirty marks are cleared here: a mark that is
-- set afterwards means a change that this snapshot does not hold. A character that is read without
-- our claim is claimed here; an older claim on it is superseded.
-- The snapshots of a script have a seal. It is added to the entries of the cores and sessions, so that
-- Redis knows its own history: a row that was saved under another seal is of another one.
-- If a group has more members than are declared, nothing is done for it: the reply names them. Nor
-- is anything done for the groups that come once the reply is full.
-- Uses: at_maxmemory, clock, types, version, members, fields, seals
-- KEYS: 1 dirty, 2 claimed, 3 since, 4 seals, 5 nonces, 6 servers, then for each group its cores,
--       sessions, sessions' logs, ties
-- ARGV: 1, packed: seal, max_bytes of a hash, script_bytes (the reply is full once its hashes are
--       more), words_bytes (an entry of seals that is longer is full), lease_us, the fields of a core
--       that point at sessions and the type of each, groups (each the token, and the names of
--       characters, sessions, ties, the claimed character first; or only that one, if it is alone)
-- Returns: packed: at_ms, whether everything is being compared, whether Redis went back, whether
--          PostgreSQL did, the counter of sweeps; of each group 1, or a list of what else belongs to it, or
--          an error, or 0 if the reply was full, 2 if the seals are; then in columns the cores and the
--          sessions of those with 1: versions, details (the token if it was claimed here, the length of
--          the log), seals before this one or false, nonces or "", hashes (field, value, …; empty if it
--          is gone); and their ties (name, token, …)
-- Errors: with the key's number WRONGTYPE, for one of the first six; as text, LEASELOST; with
--         the key's number TOOLARGE and the largest field, BADVERSION, WRONGTYPE
local dirty, claimed, since, seals, nonces, servers =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local seal, max_bytes, script_bytes, words_bytes, lease_us, reference_fields, session_types, groups =
  unpack(cmsgpack.unpack(ARGV[1]))
local why = marks_error(1, 'set', 'zset', 'zset', 'hash', 'hash', 'hash')
if why then return why end
local now = now_us()
local at_ms = math.floor(now / 1000)
local read_bytes, given_bytes = 0, 0

local VERSION, TIED = 1, 2
local kinds_in_session = {version = VERSION, [TIE] = TIED}
local kinds_in_core = {version = VERSION, [TIE] = TIED}
for i, field in ipairs(reference_fields) do kinds_in_core[field] = session_types[i] end

-- Notes what a field leads to; its kind is the type of the session if it points at one.
local function need_named(kind, number, field, value)
  if kind == TIED then
    need_tie(number, value)
  elseif value ~= '' then
    need(kind .. ':' .. value, number, field, value)
  end
end

local function too_large(number, hash, size)
  local largest, most = '', 0
  for i = 1, #hash, 2 do
    local bytes = #hash[i] + #hash[i + 1]
    if bytes > most then largest, most = hash[i], bytes end
  end
  return 'TOOLARGE ' .. number .. ' ' .. size .. ' ' .. string.sub(largest, 1, 100)
end

-- Returns a hash, and why it must not be saved, if it must not; or nothing and why not. Notes what it
-- leads to.
local function read_hash(number, kinds)
  local hash = redis.pcall('HGETALL', KEYS[number])
  if hash.err then return nil, wrong_type(number, hash) end
  local size, version = 0, false
  for i = 1, #hash, 2 do
    local field, value = hash[i], hash[i + 1]
    local kind = kinds[field]
    size = size + #field + #value
    if kind == VERSION then
      version = value
    elseif kind then
      need_named(kind, number, field, value)
    end
  end
  read_bytes = read_bytes + size
  if size > max_bytes then return hash, too_large(number, hash, size) end
  if is_bad_version(version) then return hash, 'BADVERSION ' .. number end
  return hash
end

-- Reads the keys of a group, which follow KEYS[before]. Returns the hashes and the lengths of the
-- logs, by number of the key; or nothing and why not.
local function read_group(before, characters, sessions, ties)
  local hashes, log_lengths, refused = {}, {}, nil
  local last_core = before + #characters
  local last_session = last_core + #sessions
  for number = before + 1, last_session do
    local is_core = number <= last_core
    local hash, why = read_hash(number, is_core and kinds_in_core or kinds_in_session)
    if not hash then return nil, why end
    hashes[number], refused = hash, refused or why
    if not is_core then
      local log = number + #sessions
      local length = redis.pcall('LLEN', KEYS[log])
      if type(length) ~= 'number' then return nil, wrong_type(log, length) end
      log_lengths[number] = length
    end
  end
  local first_tie = last_session + #sessions + 1
  for number = first_tie, first_tie + #ties - 1 do
    local tie = redis.pcall('HGETALL', KEYS[number])
    if tie.err then return nil, wrong_type(number, tie) end
    for i = 1, #tie, 2 do need(tie[i], number, '', tie[i]) end
    hashes[number] = tie
  end
  if #found == 0 and refused then return nil, refused end
  return hashes, log_lengths
end

-- Of all members, by name: the entries before this script, the nonces, the tokens of the claims.
local words_of, nonces_of, token_of = {}, {}, {}
local function read_entries()
  local char_ids, session_ids = {}, {}
  for _, group in ipairs(groups) do
    local _, characters, sessions = unpack(group)
    if sessions then
      for _, char_id in ipairs(characters) do char_ids[#char_ids + 1] = char_id end
      for _, session in ipairs(sessions) do session_ids[#session_ids + 1] = id_of(session) end
    else
      char_ids[#char_ids + 1] = characters
    end
  end
  for i, words in ipairs(read_fields(seals, char_ids)) do words_of[char_ids[i]] = words end
  for i, words in ipairs(read_fields(seals, session_ids)) do words_of[session_ids[i]] = words end
  for first = 1, #char_ids, 1000 do -- unpack gives no more than some thousands at once
    local last = math.min(first + 999, #char_ids)
    local tokens = redis.call('ZMSCORE', claimed, unpack(char_ids, first, last))
    for i, token in ipairs(tokens) do token_of[char_ids[first + i - 1]] = token end
  end
  if redis.call('EXISTS', nonces) == 0 then return end
  for i, text in ipairs(read_fields(nonces, char_ids)) do nonces_of[char_ids[i]] = text end
end
read_entries()

local statuses, given, new_words, claims, cleared = {}, 0, {}, {}, {}
local versions, details, entries, given_nonces, hashes, given_ties = {}, {}, {}, {}, {}, {}

-- Claims a character that came with another one. Returns the token.
local function claim(char_id)
  local token, before = now + lease_us, token_of[char_id]
  if before then token = math.max(token, before + 1) end
  token = integer(token)
  token_of[char_id] = token
  claims[#claims + 1] = token
  claims[#claims + 1] = char_id
  return token
end

-- Gives a hash and what comes with it. Raises its version, and adds the seal to its entry, if it is
-- there.
local function give(number, name, hash, detail)
  given = given + 1
  hashes[given], details[given] = hash, detail
  versions[given], entries[given], given_nonces[given] = 0, false, ''
  if #hash == 0 then return end
  local words = words_of[name]
  versions[given] = redis.call('HINCRBY', KEYS[number], 'version', 1)
  entries[given], given_nonces[given] = words, nonces_of[name] or ''
  if not words then
    words = 'bare'
  elseif is_last_word(words, seal) then
    return -- the script is sent again
  end
  new_words[#new_words + 1] = name
  new_words[#new_words + 1] = words .. ' ' .. seal
end

-- Returns whether the entry of a member of a group has no room for another seal.
local function is_full(names)
  for _, name in ipairs(names) do
    local words = words_of[id_of(name)]
    if words and #words > words_bytes then return true end
  end
  return false
end

local NONE = {}

-- Returns why no group is given under a claim; nothing if one may be.
local function refusal(token, char_id)
  if given_bytes > script_bytes then return 0 end
  if token_of[char_id] ~= token then return 'LEASELOST' end
  number_of, read_bytes = NONE, 0
  if #found > 0 then found = {} end
end

-- Gives a character that is alone, as most are. Returns 1, or why not.
local function snapshot_alone(number, token, char_id)
  local refused = refusal(token, char_id)
  if refused then return refused end
  local hash, why = read_hash(number, kinds_in_core)
  if #found > 0 then return found end
  if why then return why end
  local words = words_of[char_id]
  if words and #words > words_bytes then return 2 end
  given_bytes = given_bytes + read_bytes
  give(number, char_id, hash, 0)
  cleared[#cleared + 1] = char_id
  return 1
end

-- Notes whom sessions name, before anything is read in vain. What is no hash says so when it is read.
local function need_all_participants(sessions)
  for _, session in ipairs(sessions) do
    local number = number_of[session]
    local named = redis.pcall('HGET', KEYS[number], 'participants')
    if type(named) == 'string' then need_participants(number, named) end
  end
end

-- Gives a group. Returns 1, or why not.
local function snapshot(before, token, characters, sessions, ties)
  local refused = refusal(token, characters[1])
  if refused then return refused end
  number_of = {}
  number_members(before, characters, sessions, ties)
  need_all_participants(sessions)
  if #found > 0 then return found end
  local group, log_lengths = read_group(before, characters, sessions, ties)
  if not group then return log_lengths end
  if #found > 0 then return found end
  if is_full(characters) or is_full(sessions) then return 2 end

  -- From here on nothing can be refused.
  given_bytes = given_bytes + read_bytes
  for i, char_id in ipairs(characters) do
    local hash = group[before + i]
    local is_loaded = #hash > 0
    give(before + i, char_id, hash, i > 1 and is_loaded and claim(char_id) or 0)
    if i == 1 or is_loaded then cleared[#cleared + 1] = char_id end
  end
  for i, session in ipairs(sessions) do
    local number = before + #characters + i
    give(number, id_of(session), group[number], log_lengths[number])
  end
  for _, tie in ipairs(ties) do given_ties[#given_ties + 1] = group[number_of[tie]] end
  return 1
end

local before = 6
for i, group in ipairs(groups) do
  local token, characters, sessions, ties = unpack(group)
  if sessions then
    statuses[i] = snapshot(before, token, characters, sessions, ties)
    before = before + #characters + 2 * #sessions + #ties
  else
    statuses[i] = snapshot_alone(before + 1, token, characters)
    before = before + 1
  end
end
in_parts('HSET', seals, new_words)
in_parts('ZADD', claimed, claims)
for first = 1, #cleared, 500 do -- unpack gives no more than some thousands at once
  local marked, aged = {}, {}
  local last = math.min(first + 499, #cleared)
  for i, is_dirty in ipairs(redis.call('SMISMEMBER', dirty, unpack(cleared, first, last))) do
    if is_dirty == 1 then -- marked since the claim, maybe by a bare writer; or it came with another
      local char_id = cleared[first + i - 1]
      marked[#marked + 1] = char_id
      aged[#aged + 1], aged[#aged + 2] = integer(at_ms), char_id
    end
  end
  if #marked > 0 then
    redis.call('SREM', dirty, unpack(marked))
    redis.call('ZADD', since, 'NX', unpack(aged))
  end
end
local known = redis.call('HMGET', servers, 'comparing', 'settling', 'recovering', 'sweeps')
return cmsgpack.pack({
  at_ms, known[1] ~= false, known[2] ~= false, known[3] ~= false, tonumber(known[4] or '') or 0,
  statuses, versions, details, entries, given_nonces, hashes, given_ties})

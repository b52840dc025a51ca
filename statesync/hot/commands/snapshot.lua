-- Reads claimed characters, each with its group (its sessions, their participants, whatever is tied
-- to one of them), at one instant, and raises their versions, which orders all snapshots. Several
-- groups in one script share its call and its arguments; a refusal of one leaves the others alone.
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
-- ARGV: 1, packed: max_bytes of a hash, script_bytes (the reply is full once its hashes are
--       more), words_bytes (an entry of seals that is longer is full), lease_us, references (the
--       fields, and the session type of each), seal, groups (each the token, and the names of
--       characters, sessions, ties, the claimed character first; without the last two if it is
--       alone)
-- Returns: one flat list, to be read from its beginning: at_ms, whether everything is being compared,
--          whether Redis went back, whether PostgreSQL did; the counter of sweeps; then for each
--          group 1, its cores (how many texts, version, token, seals before this one or nil,
--          nonces or nil, and as texts field, value, …; only 0 if it is gone), its sessions (the
--          same, with the length of the log for the token; or 0), its ties (how many texts, texts).
--          Or, instead of these, a list of what else belongs to the group; an error; or 0
--          if the reply was full, 2 if the seals are. Measured: a packed head beside the texts
--          costs 0.8 µs more a character, of 9;
--          lists within a list cost more still, since Valkey makes a buffer of 16 kB for each
-- Errors: with the key's number WRONGTYPE, for one of the first six; as text, LEASELOST; with
--         the key's number TOOLARGE and the largest field, BADVERSION, WRONGTYPE
local dirty, claimed, since, seals, nonces, servers =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local args = cmsgpack.unpack(ARGV[1])
local max_bytes, script_bytes, lease_us = args.max_bytes, args.script_bytes, args.lease_us
local reference_fields, session_types = unpack(args.references)
local now = now_us()
local at_ms = math.floor(now / 1000)
local wanted = {version = true, participants = true, [TIE] = true}
for _, field in ipairs(reference_fields) do wanted[field] = true end

local read_bytes, given_bytes = 0, 0

-- Returns a hash, its wanted fields by name, and why it must not be saved, if it must not.
local function read_hash(number)
  local hash = redis.pcall('HGETALL', KEYS[number])
  if hash.err then return nil, nil, wrong_type(number, hash) end
  local fields, size, largest, most = {}, 0, '', 0
  for i = 1, #hash, 2 do
    local field, value = hash[i], hash[i + 1]
    local bytes = #field + #value
    size = size + bytes
    if bytes > most then largest, most = field, bytes end
    if wanted[field] then fields[field] = value end
  end
  read_bytes = read_bytes + size
  local refused
  if size > max_bytes then
    refused = 'TOOLARGE ' .. number .. ' ' .. size .. ' ' .. string.sub(largest, 1, 100)
  elseif is_bad_version(fields.version or false) then
    refused = 'BADVERSION ' .. number
  end
  return hash, fields, refused
end

-- Reads the keys of a group, which follow KEYS[before]. Returns the hashes and the lengths of the
-- logs, by number of the key; or nothing and why not.
local function read_group(before, characters, sessions, ties)
  local hashes, log_lengths, refused = {}, #sessions > 0 and {}, nil
  local last_core = before + #characters
  local last_session = last_core + #sessions
  for number = before + 1, last_session do
    local hash, fields, why = read_hash(number)
    if not hash then return nil, why end
    hashes[number], refused = hash, refused or why
    need_tie(number, fields[TIE])
    if number <= last_core then
      need_sessions(number, fields, reference_fields, session_types)
    else
      local log = number + #sessions
      need_participants(number, fields.participants or '')
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

-- Claims a character that came with another one. Returns the token.
local function claim(char_id)
  local was_dirty = redis.call('SREM', dirty, char_id) == 1
  local token = now + lease_us
  local before = redis.call('ZSCORE', claimed, char_id)
  if before then token = math.max(token, before + 1) end
  token = integer(token)
  redis.call('ZADD', claimed, token, char_id)
  if was_dirty then redis.call('ZADD', since, 'NX', integer(at_ms), char_id) end
  return token
end

local why = marks_error(1, 'set', 'zset', 'zset', 'hash', 'hash', 'hash')
if why then return why end

-- The entries of all members before this script, and those that it writes, by name.
local seal, words_of, nonces_of, new_words = args.seal, {}, {}, {}
local function read_entries()
  local names, char_ids = {}, {}
  for _, group in ipairs(args.groups) do
    for _, char_id in ipairs(group[2]) do
      names[#names + 1], char_ids[#char_ids + 1] = char_id, char_id
    end
    for _, session in ipairs(group[3] or {}) do names[#names + 1] = id_of(session) end
  end
  for i, words in ipairs(read_fields(seals, names)) do words_of[names[i]] = words end
  if redis.call('EXISTS', nonces) == 0 then return end
  for i, text in ipairs(read_fields(nonces, char_ids)) do nonces_of[char_ids[i]] = text end
end
read_entries()

local reply, cleared = {integer(at_ms)}, {}
local known = redis.call('HMGET', servers, 'comparing', 'settling', 'recovering', 'sweeps')
for i = 1, 3 do reply[i + 1] = known[i] and 1 or 0 end
reply[5] = tonumber(known[4] or '') or 0

-- Gives a hash after how many texts it is and what comes with it. Raises its version, and adds the
-- seal to its entry, if it is there.
local function give(number, hash, detail, name)
  local last, count = #reply + 1, #hash
  reply[last] = count
  if count == 0 then return end
  local words = words_of[name]
  reply[last + 1] = redis.call('HINCRBY', KEYS[number], 'version', 1)
  reply[last + 2], reply[last + 3], reply[last + 4] = detail, words, nonces_of[name] or false
  last = last + 4
  for i = 1, count do reply[last + i] = hash[i] end
  if not words then
    words = 'bare'
  elseif is_last_word(words, seal) then
    return -- the script is sent again
  end
  new_words[#new_words + 1] = name
  new_words[#new_words + 1] = words .. ' ' .. seal
end

local function give_tie(entries)
  local last = #reply + 1
  reply[last] = #entries
  for i = 1, #entries do reply[last + i] = entries[i] end
end

-- Returns whether the entry of a member of a group has no room for another seal.
local function is_full(names)
  for _, name in ipairs(names) do
    local words = words_of[id_of(name)]
    if words and #words > args.words_bytes then return true end
  end
  return false
end

-- Gives a group; or returns why not.
local function snapshot(before, token, characters, sessions, ties)
  if given_bytes > script_bytes then return 0 end
  if redis.call('ZSCORE', claimed, characters[1]) ~= token then return 'LEASELOST' end
  number_of, read_bytes = {}, 0
  if #found > 0 then found = {} end
  number_members(before, characters, sessions, ties)
  local hashes, log_lengths = read_group(before, characters, sessions, ties)
  if not hashes then return log_lengths end
  if #found > 0 then return found end
  if is_full(characters) or is_full(sessions) then return 2 end

  -- From here on nothing can be refused.
  given_bytes = given_bytes + read_bytes
  reply[#reply + 1] = 1
  for i = 1, #characters do
    local char_id, hash = characters[i], hashes[before + i]
    if i == 1 then
      cleared[#cleared + 1] = char_id
    elseif #hash > 0 then
      token = claim(char_id)
    end
    give(before + i, hash, token, char_id)
  end
  for i = 1, #sessions do
    local number = before + #characters + i
    give(number, hashes[number], log_lengths[number], id_of(sessions[i]))
  end
  for i = 1, #ties do give_tie(hashes[number_of[ties[i]]]) end
end

local NONE, before = {}, 6
for _, group in ipairs(args.groups) do
  local token, characters, sessions, ties = group[1], group[2], group[3] or NONE, group[4] or NONE
  local refused = snapshot(before, token, characters, sessions, ties)
  if refused then reply[#reply + 1] = refused end
  before = before + #characters + 2 * #sessions + #ties
end
in_parts('HSET', seals, new_words)
for first = 1, #cleared, 1000 do -- unpack gives no more than some thousands at once
  local last = math.min(first + 999, #cleared)
  for i, is_dirty in ipairs(redis.call('SMISMEMBER', dirty, unpack(cleared, first, last))) do
    if is_dirty == 1 then -- marked since the claim, maybe by a bare writer
      redis.call('SREM', dirty, cleared[first + i - 1])
      redis.call('ZADD', since, 'NX', integer(at_ms), cleared[first + i - 1])
    end
  end
end
return reply

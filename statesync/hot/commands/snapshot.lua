-- Reads claimed characters, each with all that belongs to it (its sessions, their participants,
-- whoever is tied to one of them) at one instant, and raises their versions, which orders all
-- snapshots. Several in one script share its call and its arguments; what is refused to one group
-- does nothing to it or to another.
-- The claims cover every change made so far, so the dirty marks are cleared here: one that is set
-- afterwards means a change that this snapshot does not hold. Whoever is read without being
-- claimed by us is claimed here; an older claim is superseded.
-- Nothing is done where more belongs to a group than is declared: its reply says what, for the next
-- try.
-- Uses: version, members
-- KEYS: 1 dirty, 2 claimed, 3 since, then for each group its cores, sessions, sessions' logs, ties
-- ARGV: 1, packed in one list: most bytes, lease in µs, how many types, their names; then for each
--       group its token, how many cores, sessions, ties, the members' names, the claimed one first
-- Returns: the time in ms, then for each group, all in one list, since Valkey makes a buffer for
--          each list in a list: 1; its cores (how long the hash is, version, token, the hash as it
--          was, or 0 where it is gone), its sessions (how long, version, the log's length, the
--          hash, or 0), its ties (how long, name, token, …). Or what else belongs to it, in a list
--          of its own; or an error as text
-- Errors: as text, LEASELOST; with the key's number TOOLARGE and the largest field, BADVERSION,
--         WRONGTYPE
local args = cmsgpack.unpack(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local now_ms = string.format('%.0f', math.floor(now / 1000))
local types, kind_of = {}, {}
for t = 1, args[3] do
  types[t] = args[3 + t] .. '_session_id'
  kind_of[types[t]] = args[3 + t] .. ':'
end
local wanted = {version = true, participants = true, [TIE] = true}
for _, field in ipairs(types) do wanted[field] = true end

-- Returns a hash, its wanted fields by name, and why it must not be saved, if it must not.
local function read_hash(i)
  local hash = redis.pcall('HGETALL', KEYS[i])
  if hash.err then return nil, nil, 'WRONGTYPE ' .. i end
  local held, size, largest, most = {}, 0, '', 0
  for j = 1, #hash, 2 do
    local field, value = hash[j], hash[j + 1]
    local bytes = #field + #value
    size = size + bytes
    if bytes > most then largest, most = field, bytes end
    if wanted[field] then held[field] = value end
  end
  local refused
  if size > args[1] then
    refused = 'TOOLARGE ' .. i .. ' ' .. size .. ' ' .. string.sub(largest, 1, 100)
  elseif bad_version(held.version or false) then
    refused = 'BADVERSION ' .. i
  end
  return hash, held, refused
end

local function need_tie(i, tie)
  if tie and tie ~= '' then need(tie, i, TIE, tie) end
end

local replies, cleared = {now_ms}, {}

local function give(hash, ...)
  local n = #replies
  replies[n + 1] = #hash
  if #hash == 0 then return end
  replies[n + 2], replies[n + 3] = ...
  n = n + 3
  for i = 1, #hash do replies[n + i] = hash[i] end
end

-- Gives a group, or returns why not.
local function take(before, arg)
  local token, cores = args[arg], args[arg + 1]
  local sessions, ties = args[arg + 2], args[arg + 3]
  local names, last_session = arg + 4, before + cores + sessions
  if redis.call('ZSCORE', KEYS[2], args[names]) ~= token then return 'LEASELOST' end
  at, found = {}, {}
  name_members(args, before, names, cores, sessions, ties)

  local read, refused, lengths, tied = {}, nil, {}, {}
  for i = before + 1, last_session do
    local hash, held, why = read_hash(i)
    if not hash then return why end
    read[i], refused = hash, refused or why
    need_tie(i, held[TIE])
    if i <= before + cores then
      for _, field in ipairs(types) do
        local value = held[field]
        if value and value ~= '' then need(kind_of[field] .. value, i, field, value) end
      end
    else
      need_participants(i, held.participants or '')
      lengths[i] = redis.pcall('LLEN', KEYS[i + sessions])
      if type(lengths[i]) ~= 'number' then return 'WRONGTYPE ' .. i + sessions end
    end
  end
  for i = 1, ties do
    local key = last_session + sessions + i
    tied[i] = redis.pcall('HGETALL', KEYS[key])
    if tied[i].err then return 'WRONGTYPE ' .. key end
    for j = 1, #tied[i], 2 do need(tied[i][j], key, '', tied[i][j]) end
  end
  if #found > 0 then return found end
  if refused then return refused end

  -- From here on nothing can be refused.
  replies[#replies + 1] = 1
  for i = 1, cores do
    local id, core = args[names + i - 1], read[before + i]
    if i == 1 then
      cleared[#cleared + 1] = id
    elseif core[1] then
      local dirty = redis.call('SREM', KEYS[1], id) == 1
      local held = redis.call('ZSCORE', KEYS[2], id)
      token = now + args[2]
      if held then token = math.max(token, held + 1) end
      token = string.format('%.0f', token)
      redis.call('ZADD', KEYS[2], token, id)
      if dirty then redis.call('ZADD', KEYS[3], 'NX', now_ms, id) end
    end
    give(core, core[1] and redis.call('HINCRBY', KEYS[before + i], 'version', 1), token)
  end
  for i = 1, sessions do
    local key = before + cores + i
    local session = read[key]
    give(session, session[1] and redis.call('HINCRBY', KEYS[key], 'version', 1), lengths[key])
  end
  for i = 1, ties do
    replies[#replies + 1] = #tied[i]
    for _, part in ipairs(tied[i]) do replies[#replies + 1] = part end
  end
end

local before, arg = 3, 4 + #types
while arg <= #args do
  local cores, sessions, ties = args[arg + 1], args[arg + 2], args[arg + 3]
  local refused = take(before, arg)
  if refused then replies[#replies + 1] = refused end
  before = before + cores + 2 * sessions + ties
  arg = arg + 4 + cores + sessions + ties
end
if #cleared > 0 then redis.call('SREM', KEYS[1], unpack(cleared)) end
return replies

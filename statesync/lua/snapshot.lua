-- Reads a claimed character, everybody whom a session ties to it, and their sessions, at one
-- instant, and raises their versions, which orders all snapshots.
-- The claims cover every change made so far, so the dirty marks are cleared here: one that is set
-- afterwards means a change that this snapshot does not hold. Whoever is read without being
-- claimed by us is claimed here; an older claim is superseded.
-- Nothing is done where a core points at, or has left, other sessions than expected, or a session
-- names, or was left by, somebody who is not among the cores: the reply says what is so, for the
-- next try.
-- KEYS: 1 dirty, 2 claimed, 3 since, then the cores, the sessions, the sessions' logs
-- ARGV: 1 most bytes, 2 lease in µs, 3 token, 4 how many cores, 5 sessions, 6 reference fields;
--       then the fields; the char_ids, the claimed one first; for each core, what each field holds
-- Returns: 1, the time in ms, for each core its token, field, value, … or nothing where it is
--          gone, for each session its log's length, field, value, … or nothing;
--          or 0, what the fields hold, and the sessions' participants and who has left them
-- Errors: LEASELOST; with the key's number TOOLARGE and the largest field, BADVERSION, WRONGTYPE
local cores, sessions, fields = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local first_id = 6 + fields
local first_reference = first_id + cores
local lease = tonumber(ARGV[2])
if redis.call('ZSCORE', KEYS[2], ARGV[first_id + 1]) ~= ARGV[3] then
  return redis.error_reply('LEASELOST')
end
local names, among = {}, {}
for i = 1, fields do names[i] = ARGV[6 + i] end
for i = 1, cores do among[ARGV[first_id + i]] = true end

local expected, found, participants = true, {}, {}
for i = 1, cores do
  local held = redis.pcall('HMGET', KEYS[3 + i], unpack(names))
  if held.err then return redis.error_reply('WRONGTYPE ' .. 3 + i) end
  for j = 1, fields do
    local reference = held[j] or ''
    found[#found + 1] = reference
    expected = expected and reference == ARGV[first_reference + #found]
  end
end
for i = 1, sessions do
  local lists = redis.pcall('HMGET', KEYS[3 + cores + i], 'participants', 'left_participants')
  if lists.err then return redis.error_reply('WRONGTYPE ' .. 3 + cores + i) end
  for j = 1, 2 do
    local list = lists[j] or ''
    participants[#participants + 1] = list
    for id in string.gmatch(list, '%d+') do expected = expected and among[id] end
  end
end
if not expected then return {0, found, participants} end

local read = {}
for i = 4, 3 + cores + sessions do
  local hash = redis.call('HGETALL', KEYS[i])
  local size, largest, most = 0, '', 0
  for j = 1, #hash, 2 do
    local bytes = #hash[j] + #hash[j + 1]
    size = size + bytes
    if bytes > most then largest, most = hash[j], bytes end
  end
  if size > tonumber(ARGV[1]) then
    return redis.error_reply('TOOLARGE ' .. i .. ' ' .. size .. ' ' .. string.sub(largest, 1, 100))
  end
  read[i] = hash
end
for i = 4, 3 + cores + sessions do
  if #read[i] > 0 then
    local version = redis.pcall('HINCRBY', KEYS[i], 'version', 1)
    if type(version) ~= 'number' then
      -- Anything else, such as being out of memory, is the server's trouble and no character's.
      local bad = string.find(version.err, 'not an integer') or string.find(version.err, 'overflow')
      return bad and redis.error_reply('BADVERSION ' .. i) or version
    end
    table.insert(read[i], 'version')
    table.insert(read[i], string.format('%.0f', version))
  end
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local now_ms = string.format('%.0f', math.floor(now / 1000))
local states, scenes = {}, {}
for i = 1, cores do
  local id, core = ARGV[first_id + i], read[3 + i]
  local token = ARGV[3]
  if i == 1 or #core > 0 then redis.call('SREM', KEYS[1], id) end
  if i > 1 and #core > 0 then
    local held = redis.call('ZSCORE', KEYS[2], id)
    token = now + lease
    if held then token = math.max(token, held + 1) end
    token = string.format('%.0f', token)
    redis.call('ZADD', KEYS[2], token, id)
    redis.call('ZADD', KEYS[3], 'NX', now_ms, id)
  end
  if #core > 0 then table.insert(core, 1, token) end
  states[i] = core
end
for i = 1, sessions do
  local session = read[3 + cores + i]
  if #session > 0 then
    local length = redis.pcall('LLEN', KEYS[3 + cores + sessions + i])
    if type(length) ~= 'number' then
      return redis.error_reply('WRONGTYPE ' .. 3 + cores + sessions + i)
    end
    table.insert(session, 1, length)
  end
  scenes[i] = session
end
return {1, now_ms, states, scenes}

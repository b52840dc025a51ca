-- Reads a claimed character, all that belongs to it (its sessions, their participants, whoever is
-- tied to one of them) at one instant, and raises their versions, which orders all snapshots.
-- The claims cover every change made so far, so the dirty marks are cleared here: one that is set
-- afterwards means a change that this snapshot does not hold. Whoever is read without being
-- claimed by us is claimed here; an older claim is superseded.
-- Nothing is done where more belongs to it than is declared: the reply says what, for the next try.
-- Uses: version, members
-- KEYS: 1 dirty, 2 claimed, 3 since, then the cores, the sessions, the sessions' logs, the ties
-- ARGV: 1 most bytes, 2 lease in µs, 3 token, 4 how many cores, 5 sessions, 6 ties, 7 types; then
--       the members' names, the claimed one first; the types' names
-- Returns: 1, the time in ms, for each core its token, field, value, … or nothing where it is
--          gone, for each session its log's length, field, value, … or nothing, for each tie name,
--          token, …; or 0 and what else belongs to it
-- Errors: LEASELOST; with the key's number TOOLARGE and the largest field, BADVERSION, WRONGTYPE
local cores, sessions, ties = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local last_session = 3 + cores + sessions
if redis.call('ZSCORE', KEYS[2], ARGV[8]) ~= ARGV[3] then return redis.error_reply('LEASELOST') end
name_members(3, 8, cores, sessions, ties)
local types, fields = {}, {TIE}
for i = 1, tonumber(ARGV[7]) do
  types[i] = ARGV[7 + cores + sessions + ties + i]
  fields[i + 1] = types[i] .. '_session_id'
end

for i = 4, 3 + cores do
  local held = redis.pcall('HMGET', KEYS[i], unpack(fields))
  if held.err then return redis.error_reply('WRONGTYPE ' .. i) end
  for j, value in ipairs(held) do
    if value and value ~= '' then
      need(j == 1 and value or types[j - 1] .. ':' .. value, i, fields[j], value)
    end
  end
end
local lengths, tied = {}, {}
for i = 4 + cores, last_session do
  local held = redis.pcall('HMGET', KEYS[i], 'participants', TIE)
  if held.err then return redis.error_reply('WRONGTYPE ' .. i) end
  need_participants(i, held[1] or '')
  if held[2] and held[2] ~= '' then need(held[2], i, TIE, held[2]) end
  lengths[i] = redis.pcall('LLEN', KEYS[i + sessions])
  if type(lengths[i]) ~= 'number' then return redis.error_reply('WRONGTYPE ' .. i + sessions) end
end
for i = 1, ties do
  local key = last_session + sessions + i
  tied[i] = redis.pcall('HGETALL', KEYS[key])
  if tied[i].err then return redis.error_reply('WRONGTYPE ' .. key) end
  for j = 1, #tied[i], 2 do need(tied[i][j], key, '', tied[i][j]) end
end
if #found > 0 then return {0, found} end

local read = {}
for i = 4, last_session do
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
  local refused = cannot_raise(i)
  if refused then return refused end
  read[i] = hash
end

-- From here on nothing can be refused.
for i = 4, last_session do
  if #read[i] > 0 then
    table.insert(read[i], 'version')
    table.insert(read[i], string.format('%.0f', redis.call('HINCRBY', KEYS[i], 'version', 1)))
  end
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local now_ms = string.format('%.0f', math.floor(now / 1000))
local states, scenes = {}, {}
for i = 1, cores do
  local id, core, token = ARGV[7 + i], read[3 + i], ARGV[3]
  local dirty = (i == 1 or #core > 0) and redis.call('SREM', KEYS[1], id) == 1
  if i > 1 and #core > 0 then
    local held = redis.call('ZSCORE', KEYS[2], id)
    token = now + tonumber(ARGV[2])
    if held then token = math.max(token, held + 1) end
    token = string.format('%.0f', token)
    redis.call('ZADD', KEYS[2], token, id)
    if dirty then redis.call('ZADD', KEYS[3], 'NX', now_ms, id) end
  end
  if #core > 0 then table.insert(core, 1, token) end
  states[i] = core
end
for i = 1, sessions do
  local session = read[3 + cores + i]
  if #session > 0 then table.insert(session, 1, lengths[3 + cores + i]) end
  scenes[i] = session
end
return {1, now_ms, states, scenes, tied}

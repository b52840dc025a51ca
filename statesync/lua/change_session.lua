-- Changes a session: writes fields, appends to its log, takes somebody in or out, closes it; and
-- marks all participants that are loaded. The last one to leave closes it. Who leaves stays tied to
-- it until both are saved.
-- Nothing is done where the session names others than expected, or nobody: the reply says whom.
-- Sent twice it does no harm: what was appended once is not appended again.
-- KEYS: 1 session, 2 log, 3 dirty, 4 since, 5 once, then the participants' cores, the joiner's last
-- ARGV: 1 reference field, 2 session id, 3 how many participants, 4 who joins or "", 5 who leaves
--       or "", 6 "1" to close it, 7 how many fields; then the participants' char_ids; field,
--       value, …; log entries
-- Returns: 1 and the new version; or 0 and the participants
-- Errors: SESSIONGONE, SESSIONCLOSED; with the key's number NOTLOADED, INSESSION, BADVERSION
if redis.call('EXISTS', KEYS[1]) == 0 then return redis.error_reply('SESSIONGONE') end
if redis.call('HEXISTS', KEYS[1], 'closed_at') == 1 then
  if ARGV[6] == '1' then return {1, tonumber(redis.call('HGET', KEYS[1], 'version'))} end
  return redis.error_reply('SESSIONCLOSED')
end
local count, joiner, leaver = tonumber(ARGV[3]), ARGV[4], ARGV[5]
local list = redis.call('HGET', KEYS[1], 'participants') or ''
local expected, seen, ids = true, 0, {}
for id in string.gmatch(list, '%d+') do
  seen = seen + 1
  ids[seen] = id
  expected = expected and id == ARGV[7 + seen]
end
if not expected or seen ~= count or (seen == 0 and joiner == '') then return {0, list} end

local function is_in(who)
  for i = 1, seen do if ids[i] == who then return i end end
end
if joiner ~= '' then
  local key = KEYS[#KEYS]
  if redis.call('EXISTS', key) == 0 then return redis.error_reply('NOTLOADED ' .. #KEYS) end
  local held = redis.call('HGET', key, ARGV[1])
  if held and held ~= '' and held ~= ARGV[2] then return redis.error_reply('INSESSION ' .. #KEYS) end
end
local version = redis.pcall('HINCRBY', KEYS[1], 'version', 1)
if type(version) ~= 'number' then
  local bad = string.find(version.err, 'not an integer') or string.find(version.err, 'overflow')
  return bad and redis.error_reply('BADVERSION 1') or version
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local function mark(key, id)
  if redis.call('EXISTS', key) == 1 and redis.call('SADD', KEYS[3], id) == 1 then
    redis.call('ZADD', KEYS[4], 'NX', now_ms, id)
  end
end

local closes = ARGV[6] == '1'
local place = leaver ~= '' and is_in(leaver)
if place and seen == 1 then
  closes = true
elseif place then
  local key = KEYS[5 + place]
  table.remove(ids, place)
  if redis.call('HGET', key, ARGV[1]) == ARGV[2] then
    redis.call('HDEL', key, ARGV[1])
    redis.call('HINCRBY', key, 'version', 1)
    -- What was taken along is saved together with what was left behind.
    local name = string.gsub(ARGV[1], '_session_id$', '') .. ':' .. ARGV[2]
    local also = redis.call('HGET', key, 'left_sessions')
    redis.call('HSET', key, 'left_sessions', also and also .. ' ' .. name or name)
    also = redis.call('HGET', KEYS[1], 'left_participants')
    redis.call('HSET', KEYS[1], 'left_participants', also and also .. ' ' .. leaver or leaver)
  end
  mark(key, leaver)
end
if joiner ~= '' then
  if not is_in(joiner) then ids[#ids + 1] = joiner end
  redis.call('HSET', KEYS[#KEYS], ARGV[1], ARGV[2])
  redis.call('HINCRBY', KEYS[#KEYS], 'version', 1)
  mark(KEYS[#KEYS], joiner)
end
if joiner ~= '' or place then
  redis.call('HSET', KEYS[1], 'participants', '[' .. table.concat(ids, ',') .. ']')
end
local first_field = 8 + count
local first_entry = first_field + 2 * tonumber(ARGV[7])
for i = first_field, first_entry - 1, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
if first_entry <= #ARGV and redis.call('SET', KEYS[5], 1, 'NX', 'PX', 600000) then
  for i = first_entry, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[i]) end
end
if closes then redis.call('HSET', KEYS[1], 'closed_at', string.format('%.0f', now_ms)) end
for i = 1, count do mark(KEYS[5 + i], ARGV[7 + i]) end
return {1, version}

-- Restores a core from PostgreSQL, only where it is absent, and then its sessions, each only where
-- the core points at it and it is absent: somebody else may still be playing in it.
-- A row that was read before the character was played, saved and evicted again is refused: it is
-- older than the eviction. So is a log that was not staged whole, and what was only to bring back
-- sessions of a core that is gone by now. Then nothing is done.
-- Who is found not to be in a live session any more has left it while he was not loaded. Who finds
-- one live that is not as its row is marked: what happened in it while nobody in it was loaded has
-- no mark.
-- What became of a core is counted here: a call of its own would make a login wait once more.
-- KEYS: 1 core, 2 evicted, 3 dirty, 4 since, 5 stats; then for each session its hash, log, evicted,
--       staged
-- ARGV: 1 char_id, 2 the row's version or "" for its sessions alone, 3 how many fields, 4 1 if the core is not as its row;
--       then field, value, …; then for each session its reference field, id, version, length of
--       its log, how many fields, field, value, …
-- Returns: "restored", "live" or "stale"; then for each session "restored", "live" or "left"
-- Errors: with the key's number WRONGTYPE
local live = redis.call('EXISTS', KEYS[1]) == 1
local evicted = redis.call('GET', KEYS[2])
if not live and (ARGV[2] == '' or evicted and tonumber(evicted) > tonumber(ARGV[2])) then
  return {'stale'}
end
local after_core = 4 + 2 * tonumber(ARGV[3])

local at, todo = after_core, {}
for k = 6, #KEYS, 4 do
  local pairs_from = at + 6
  local todo_is = {field = ARGV[at + 1], id = ARGV[at + 2], version = ARGV[at + 3],
    from = pairs_from, to = pairs_from + 2 * tonumber(ARGV[at + 5]) - 1, k = k,
    live = redis.call('EXISTS', KEYS[k]) == 1}
  if todo_is.live and redis.call('TYPE', KEYS[k]).ok ~= 'hash' then
    return redis.error_reply('WRONGTYPE ' .. k)
  end
  if not todo_is.live then
    local gone = redis.call('GET', KEYS[k + 2])
    if gone and tonumber(gone) > tonumber(ARGV[at + 3]) then return {'stale'} end
    if redis.call('LLEN', KEYS[k + 3]) ~= tonumber(ARGV[at + 4]) then return {'stale'} end
  end
  todo[#todo + 1] = todo_is
  at = todo_is.to
end

local function mark()
  if redis.call('SADD', KEYS[3], ARGV[1]) == 1 then
    local now = redis.call('TIME')
    redis.call('ZADD', KEYS[4], 'NX', now[1] * 1000 + math.floor(now[2] / 1000), ARGV[1])
  end
end

local function has_left(session)
  local list = redis.call('HGET', session, 'participants')
  if not list or not string.find(list, '%d') then return false end
  for id in string.gmatch(list, '%d+') do
    if id == ARGV[1] then return false end
  end
  return true
end

local reply = {live and 'live' or 'restored'}
if not live then
  redis.call('HSET', KEYS[1], 'version', ARGV[2], 'saved_version', ARGV[2])
  for i = 5, after_core, 1000 do
    redis.call('HSET', KEYS[1], unpack(ARGV, i, math.min(i + 999, after_core)))
  end
  if ARGV[4] == '1' then mark() end
end
for _, session in ipairs(todo) do
  local k = session.k
  if redis.call('HGET', KEYS[1], session.field) ~= session.id then
    reply[#reply + 1] = 'left'
  elseif session.live and not live and has_left(KEYS[k]) then
    reply[#reply + 1] = 'left'
    redis.call('HDEL', KEYS[1], session.field)
    mark()
  elseif session.live then
    reply[#reply + 1] = 'live'
    if redis.call('HGET', KEYS[k], 'version') ~= session.version then mark() end
  else
    redis.call('HSET', KEYS[k], 'version', session.version)
    for i = session.from, session.to, 2 do redis.call('HSET', KEYS[k], ARGV[i], ARGV[i + 1]) end
    redis.call('DEL', KEYS[k + 1])
    if redis.call('EXISTS', KEYS[k + 3]) == 1 then
      redis.call('RENAME', KEYS[k + 3], KEYS[k + 1])
      redis.call('PERSIST', KEYS[k + 1])
    end
    reply[#reply + 1] = 'restored'
  end
  redis.call('DEL', KEYS[k + 3])
end
if ARGV[2] ~= '' then redis.call('HINCRBY', KEYS[5], reply[1], 1) end
return reply

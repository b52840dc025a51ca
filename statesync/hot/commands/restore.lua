-- Restores cores from PostgreSQL, each only where it is absent, and then its sessions, each only
-- where the core points at it and it is absent: somebody else may still be playing in it. Several
-- in one script share its call and its arguments; what is refused to one does nothing to it or to
-- another.
-- A row that was read before the character was played, saved and evicted again is refused: it is
-- older than the eviction. So is a log that was not staged whole, and what was only to bring back
-- sessions of a core that is gone by now.
-- Who is found not to be in a live session any more has left it while he was not loaded. Who finds
-- one live that is not as its row is marked: what happened in it while nobody in it was loaded has
-- no mark.
-- What became of a core is counted here: a call of its own would make a login wait once more.
-- Uses: mark
-- KEYS: 1 dirty, 2 since, 3 stats; then for each character its core, evicted; for each of its
--       sessions the hash, log, evicted, staged
-- ARGV: 1, packed: for each character a list: char_id, the row's version or "" for its sessions
--       alone, 1 if the core is not as its row, its fields (field, value, …), and for each session
--       a list: reference field, id, version, length of its log, fields
-- Returns: for each character a text: "restored", "live" or "stale", and for each of its sessions
--          "restored", "live" or "left"; or the error
-- Errors: as text, with the key's number, WRONGTYPE
local function write(key, fields)
  for i = 1, #fields, 1000 do -- no more can be unpacked than some thousands
    redis.call('HSET', key, unpack(fields, i, math.min(i + 999, #fields)))
  end
end

local function has_left(session, char_id)
  local list = redis.call('HGET', session, 'participants')
  if not list or not string.find(list, '%d') then return false end
  for id in string.gmatch(list, '%d+') do
    if id == char_id then return false end
  end
  return true
end

local counts = {}

-- Restores one, whose core is KEYS[k].
local function fill(k, id, version, changed, fields, sessions)
  local live = redis.call('EXISTS', KEYS[k]) == 1
  local evicted = redis.call('GET', KEYS[k + 1])
  if not live and (version == '' or evicted and tonumber(evicted) > tonumber(version)) then
    return 'stale'
  end
  if live and #sessions > 0 and redis.call('TYPE', KEYS[k]).ok ~= 'hash' then
    return 'WRONGTYPE ' .. k
  end
  local live_session = {}
  for n, session in ipairs(sessions) do
    local at = k + 4 * n - 2
    live_session[n] = redis.call('EXISTS', KEYS[at]) == 1
    if live_session[n] then
      if redis.call('TYPE', KEYS[at]).ok ~= 'hash' then return 'WRONGTYPE ' .. at end
    else
      local gone = redis.call('GET', KEYS[at + 2])
      if gone and tonumber(gone) > tonumber(session[3]) then return 'stale' end
      if redis.call('LLEN', KEYS[at + 3]) ~= session[4] then return 'stale' end
    end
  end

  local outcome = live and 'live' or 'restored'
  if not live then
    write(KEYS[k], fields)
    if changed == 1 then mark(KEYS[1], KEYS[2], id) end
  end
  if version ~= '' then counts[outcome] = (counts[outcome] or 0) + 1 end
  for n, session in ipairs(sessions) do
    local at, became = k + 4 * n - 2, nil
    if redis.call('HGET', KEYS[k], session[1]) ~= session[2] then
      became = 'left'
    elseif live_session[n] and not live and has_left(KEYS[at], id) then
      became = 'left'
      redis.call('HDEL', KEYS[k], session[1])
      mark(KEYS[1], KEYS[2], id)
    elseif live_session[n] then
      became = 'live'
      if redis.call('HGET', KEYS[at], 'version') ~= session[3] then mark(KEYS[1], KEYS[2], id) end
    else
      became = 'restored'
      write(KEYS[at], session[5])
      redis.call('DEL', KEYS[at + 1])
      if redis.call('EXISTS', KEYS[at + 3]) == 1 then
        redis.call('RENAME', KEYS[at + 3], KEYS[at + 1])
        redis.call('PERSIST', KEYS[at + 1])
      end
    end
    redis.call('DEL', KEYS[at + 3])
    outcome = outcome .. ' ' .. became
  end
  return outcome
end

local replies, k = {}, 4
for n, one in ipairs(cmsgpack.unpack(ARGV[1])) do
  replies[n] = fill(k, unpack(one))
  k = k + 2 + 4 * #one[5]
end
for outcome, count in pairs(counts) do redis.call('HINCRBY', KEYS[3], outcome, count) end
return replies

-- Takes a character into a session, or out of it, and marks whoever takes part. Who leaves is tied
-- to the session, so that what he took along and what he left behind are saved together. The last
-- one to leave closes it.
-- Nothing is done where more belongs to it than is declared: the reply says what, for the next try.
-- Sent twice it does no harm.
-- Uses: version, mark, members, tie
-- KEYS: 1 dirty, 2 since, then the cores, the sessions, their logs, the ties
-- ARGV: 1 how many cores, 2 sessions, 3 ties, 4 most members of a tie, 5 id for a new tie, 6 name of
--       the session, 7 its reference field, 8 who joins or "", 9 who leaves or ""; then the
--       members' names
-- Returns: 1 and the session's version; or 0 and what else belongs to it
-- Errors: with the key's number SESSIONGONE, SESSIONCLOSED, NOTLOADED, INSESSION, BADLIST,
--         BADVERSION, WRONGTYPE; GROUPTOOLARGE with the characters to save first
local cores, sessions, ties = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
name_members(ARGV, 2, 10, cores, sessions, ties)
local joiner, leaver = ARGV[8], ARGV[9]
local who = joiner ~= '' and joiner or leaver
local name, field = ARGV[6], ARGV[7]
local session_id = string.match(name, ':(.*)$')
local session, core = KEYS[at[name]], KEYS[at[who]]

if redis.call('EXISTS', session) == 0 then return redis.error_reply('SESSIONGONE ' .. at[name]) end
local refused = cannot_raise(at[name]) or cannot_raise(at[who])
if refused then return refused end
local version = redis.call('HGET', session, 'version') or '0'
if redis.call('HEXISTS', session, 'closed_at') == 1 then
  if leaver ~= '' then return {1, version} end
  return redis.error_reply('SESSIONCLOSED ' .. at[name])
end
local list = redis.call('HGET', session, 'participants') or ''
refused = bad_participants(at[name], list)
if refused then return refused end
local ids, place = {}, nil
for id in string.gmatch(list, '%d+') do
  ids[#ids + 1] = id
  if id == who then place = #ids end
end
need_participants(at[name], list)
local held = redis.call('HGET', core, field)
local points = held == session_id
if joiner ~= '' then
  if redis.call('EXISTS', core) == 0 then return redis.error_reply('NOTLOADED ' .. at[who]) end
  if held and held ~= '' and not points then return redis.error_reply('INSESSION ' .. at[who]) end
end
local plan = leaver ~= '' and points and plan_tie({name, leaver}, ARGV[5], tonumber(ARGV[4]))
if #found > 0 then return {0, found} end
if plan and plan.full then
  return redis.error_reply('GROUPTOOLARGE 1 ' .. leaver .. ' ' .. table.concat(ids, ' '))
end

-- From here on nothing can be refused.
if leaver ~= '' and not place and not points then return {1, version} end
version = string.format('%.0f', redis.call('HINCRBY', session, 'version', 1))
local closes = leaver ~= '' and place and #ids == 1
if closes then
  local time = redis.call('TIME')
  local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('HSET', session, 'closed_at', string.format('%.0f', now_ms))
elseif leaver ~= '' then
  if place then table.remove(ids, place) end
  if points then
    redis.call('HDEL', core, field)
    redis.call('HINCRBY', core, 'version', 1)
    tie(plan, {name, leaver}, ARGV[5])
  end
else
  if not place then ids[#ids + 1] = joiner end
  redis.call('HSET', core, field, session_id)
  redis.call('HINCRBY', core, 'version', 1)
end
redis.call('HSET', session, 'participants', '[' .. table.concat(ids, ',') .. ']')
for _, id in ipairs({who, unpack(ids)}) do
  if redis.call('EXISTS', KEYS[at[id]]) == 1 then mark(KEYS[1], KEYS[2], id) end
end
return {1, version}

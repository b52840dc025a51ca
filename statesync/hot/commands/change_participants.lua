-- Takes a character into a session, or out of it, and marks the participants. One that leaves is
-- tied to the session, so that what it took along and what it left behind are saved together. The
-- last one to leave closes the session.
-- Nothing is done if more belongs to the group than is declared: the reply says what, for the next
-- try. Sent twice it does no harm.
-- Uses: clock, types, version, mark, members, tie
-- KEYS: 1 dirty, 2 since, 3 nonces, then the cores, the sessions, their logs, the ties
-- ARGV: 1, packed: members (the names of characters, sessions, ties), max_tied, new_tie (its id),
--       session (its name), session_id, reference_field, char_id, leaves (whether it leaves), nonce
--       (or none)
-- Returns: 1 and the session's version; or 0 and what else belongs to it
-- Errors: with the key's number SESSIONGONE, SESSIONCLOSED, SESSIONNOTLOADED, NOTLOADED, INSESSION,
--         BADLIST, BADVERSION, WRONGTYPE; GROUPTOOLARGE with the characters to save first
local dirty, since, nonces = KEYS[1], KEYS[2], KEYS[3]
local args = cmsgpack.unpack(ARGV[1])
local char_id, leaves = args.char_id, args.leaves
number_members(3, unpack(args.members))
local session_number, core_number = number_of[args.session], number_of[char_id]
local session, core = KEYS[session_number], KEYS[core_number]

if redis.call('EXISTS', session) == 0 then
  return redis.error_reply('SESSIONGONE ' .. session_number)
end
local refused = marks_error(1, 'set', 'zset', 'hash') or members_error(unpack(args.members))
  or version_error(session_number) or version_error(core_number)
if refused then return refused end
local version = redis.call('HGET', session, 'version') or '0'

-- Marks those that are loaded. The nonce goes to those with whom the session is saved: who points at
-- it, and the one that leaves, if it is tied to it.
local function mark_loaded(ids, is_tied)
  for _, id in ipairs(ids) do
    local number, nonce = number_of[id], args.nonce
    if nonce and not (is_tied and id == char_id) then
      local reference = redis.call('HGET', KEYS[number], args.reference_field)
      nonce = reference == args.session_id and nonce
    end
    if redis.call('EXISTS', KEYS[number]) == 1 then mark(dirty, since, id, nonces, nonce) end
  end
end

-- Answers that it has left before. If that is not saved yet, it is tied to the session still.
local function left_before()
  if args.nonce then mark_loaded(args.members[1], true) end
  return {1, version}
end

if redis.call('HEXISTS', session, 'closed_at') == 1 then
  if leaves then return left_before() end
  return redis.error_reply('SESSIONCLOSED ' .. session_number)
end
local participants = redis.call('HGET', session, 'participants') or ''
refused = participants_error(session_number, participants)
if refused then return refused end
need_participants(session_number, participants)
local reference = redis.call('HGET', core, args.reference_field) or ''
local points_here = reference == args.session_id
if not leaves then
  if redis.call('EXISTS', core) == 0 then
    return redis.error_reply('NOTLOADED ' .. core_number)
  end
  if reference ~= '' and not points_here then
    return redis.error_reply('INSESSION ' .. core_number)
  end
end

if #found > 0 then return {0, found} end
local ids, position = {}, nil
for id in string.gmatch(participants, '%d+') do
  ids[#ids + 1] = id
  if id == char_id then position = #ids end
end
if leaves and not position and not points_here then return left_before() end
if leaves and not points_here
    and not has_loaded(participants, args.reference_field, args.session_id) then
  return redis.error_reply('SESSIONNOTLOADED ' .. session_number)
end
local tied = {args.session, char_id}
local plan = leaves and points_here and plan_tie(tied, args.new_tie, args.max_tied)
if #found > 0 then return {0, found} end
if plan and plan.too_large then
  return redis.error_reply('GROUPTOOLARGE 1 ' .. char_id .. ' ' .. table.concat(ids, ' '))
end

-- From here on nothing can be refused.
local function leave()
  if position and #ids == 1 then
    redis.call('HSET', session, 'closed_at', integer(now_ms()))
    return
  end
  if position then table.remove(ids, position) end
  if points_here then
    redis.call('HDEL', core, args.reference_field)
    redis.call('HINCRBY', core, 'version', 1)
    tie(plan, tied, args.new_tie)
  end
end

local function join()
  if not position then ids[#ids + 1] = char_id end
  redis.call('HSET', core, args.reference_field, args.session_id)
  redis.call('HINCRBY', core, 'version', 1)
end

-- At maxmemory, too, as shared/at_maxmemory.lua does: a deletion takes its character out of sessions.
if leaves then redis.call('PERSIST', session) end
version = integer(redis.call('HINCRBY', session, 'version', 1))
if leaves then leave() else join() end
redis.call('HSET', session, 'participants', '[' .. table.concat(ids, ',') .. ']')
ids[#ids + 1] = char_id
mark_loaded(ids, plan)
return {1, version}

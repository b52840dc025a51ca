-- Changes characters and sessions in one step, all or nothing, if what is expected of them holds;
-- ties what it changes, so that it is saved together, and marks the participants.
-- Nothing is done if more belongs to the group than is declared: the reply says what, for the next
-- try. Sent twice it does no harm: the second time it answers as the first time.
-- Uses: clock, types, version, mark, fields, members, tie
-- KEYS: 1 dirty, 2 since, 3 idempotency, 4 nonces; then the cores, the sessions, their logs, the ties
-- ARGV: 1, packed: members (the names of characters, sessions, ties), max_tied, new_tie (its id),
--       nonce (or none), idempotency_ms (how long the answer is kept, or 0), changes (each with its
--       name, its action "expect", "write", "close" or "close_if_open", preconditions (field, text;
--       false if it must be absent), fields, log; a session's with reference_field and session_id)
-- Returns: 1 and the new versions in the order of the changes; or 0 and what else belongs to it; or
--          2, the number of the change, the field that is not as expected, what it holds if at all
-- Errors: with the key's number NOTLOADED, SESSIONGONE, SESSIONCLOSED, SESSIONNOTLOADED, BADLIST,
--         BADVERSION, WRONGTYPE; GROUPTOOLARGE with the characters to save first
local dirty, since, idempotency, nonces = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local args = cmsgpack.unpack(ARGV[1])
local characters, sessions, ties = unpack(args.members)
local changes = args.changes

local refused = marks_error(1, 'set', 'zset', 'string', 'hash')
if refused then return refused end
local answer = args.idempotency_ms > 0 and redis.call('GET', idempotency)
if answer then
  local versions = {}
  for version in string.gmatch(answer, '%d+') do versions[#versions + 1] = version end
  return {1, versions}
end
number_members(4, characters, sessions, ties)
refused = members_error(characters, sessions, ties)
if refused then return refused end

-- Adds to a change its number, is_session, participants, and writes: whether it writes anything. A
-- session that is closed already is not written; with a nonce its participants are marked for it.
-- Returns the reply that refuses it, if any.
local function check(change)
  local number = number_of[change.name]
  local key = KEYS[number]
  change.number, change.is_session = number, number > 4 + #characters
  if redis.call('EXISTS', key) == 0 then
    return redis.error_reply((change.is_session and 'SESSIONGONE ' or 'NOTLOADED ') .. number)
  end
  local refused = version_error(number)
    or #change.log > 0 and type_error(number + #sessions, 'list')
  if refused then return refused end
  local is_closed = change.is_session and redis.call('HEXISTS', key, 'closed_at') == 1
  change.writes = change.action ~= 'expect' and not (is_closed and change.action == 'close_if_open')
  if is_closed and change.writes then return redis.error_reply('SESSIONCLOSED ' .. number) end
  for _, precondition in ipairs(change.preconditions) do
    local field, expected = unpack(precondition)
    local value = redis.call('HGET', key, field)
    if value ~= expected then return {2, change.position, field, value} end
  end
  if change.is_session and (change.writes or (args.nonce and change.action ~= 'expect')) then
    change.participants = redis.call('HGET', key, 'participants') or ''
    refused = participants_error(number, change.participants)
    if refused then return refused end
    need_participants(number, change.participants)
  end
end

local written = {}
for i, change in ipairs(changes) do
  change.position = i - 1
  refused = check(change)
  if refused then return refused end
  if change.writes then written[#written + 1] = change end
end
if #found > 0 then return {0, found} end

-- The participants of a session that is tied are tied with it, so that one tie is the whole group.
local tied, plan, is_tied = {}, nil, {}
local is_saved = false -- whether a loaded character has it saved: by its reference, or by the tie
local function add(name)
  if not is_tied[name] and redis.call('EXISTS', KEYS[number_of[name]]) == 1 then
    is_tied[name] = true
    tied[#tied + 1] = name
    is_saved = is_saved or number_of[name] <= 4 + #characters
  end
end
if #written > 1 then
  for _, change in ipairs(written) do
    add(change.name)
    for id in string.gmatch(change.participants or '', '%d+') do add(id) end
  end
  plan = plan_tie(tied, args.new_tie, args.max_tied)
  if #found > 0 then return {0, found} end
elseif #written == 1 then
  local one = written[1]
  is_saved = not one.is_session
    or has_loaded(one.participants, one.reference_field, one.session_id)
end
if #written > 0 and not is_saved then
  return redis.error_reply('SESSIONNOTLOADED ' .. written[1].number)
end
if plan and plan.too_large then
  local loaded = {}
  for _, char_id in ipairs(characters) do
    if redis.call('EXISTS', KEYS[number_of[char_id]]) == 1 then loaded[#loaded + 1] = char_id end
  end
  return redis.error_reply('GROUPTOOLARGE 1 ' .. table.concat(loaded, ' '))
end

-- From here on nothing can be refused.
local function write(change)
  local key = KEYS[change.number]
  local version = redis.call('HINCRBY', key, 'version', 1)
  write_fields(key, change.fields)
  for _, entry in ipairs(change.log) do
    redis.call('RPUSH', KEYS[change.number + #sessions], entry)
  end
  if change.action ~= 'write' then redis.call('HSET', key, 'closed_at', integer(now_ms())) end
  if not change.is_session then mark(dirty, since, change.name, nonces, args.nonce) end
  return integer(version)
end

-- Marks the participants of a session. The nonce goes to those with whom it is saved: who is tied to
-- it, or points at it.
local function mark_participants(change)
  for id in string.gmatch(change.participants or '', '%d+') do
    local core, nonce = KEYS[number_of[id]], args.nonce
    if nonce and not plan then
      local reference = redis.call('HGET', core, change.reference_field)
      nonce = reference == change.session_id and nonce
    end
    if redis.call('EXISTS', core) == 1 then mark(dirty, since, id, nonces, nonce) end
  end
end

local versions = {}
for i, change in ipairs(changes) do
  versions[i] = change.writes and write(change)
    or redis.call('HGET', KEYS[change.number], 'version') or '0'
  mark_participants(change)
end
if plan then tie(plan, tied, args.new_tie) end
if args.idempotency_ms > 0 then
  redis.call('SET', idempotency, table.concat(versions, ' '), 'PX', args.idempotency_ms)
end
return {1, versions}

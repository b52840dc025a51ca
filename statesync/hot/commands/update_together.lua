-- Changes characters and sessions in one step, all or nothing, if what is expected of them holds;
-- ties what it changes, so that it is saved together, and marks whoever takes part.
-- Nothing is done where more belongs to it than is declared: the reply says what, for the next try.
-- Sent twice it does no harm: the second time it answers as the first time.
-- Uses: version, mark, members, tie
-- KEYS: 1 dirty, 2 since, 3 once, then the cores, the sessions, their logs, the ties
-- ARGV: 1 how many cores, 2 sessions, 3 ties, 4 most members of a tie, 5 id for a new tie, 6 ms to
--       remember that it was done or 0, 7 how many changes; then the members' names; then for each
--       change its name, "guard" or what to do ("write", "close", "end": close if it is open), how
--       many expectations, field, "=" or "-" (absent), text, …; how many fields, field, value, …;
--       how many log entries, entries
-- Returns: 1 and the new versions in the order of the changes; or 0 and what else belongs to it; or
--          2, the number of the change, the field that is not as expected, what it holds if at all
-- Errors: with the key's number NOTLOADED, SESSIONGONE, SESSIONCLOSED, NOBODY, BADLIST,
--         BADVERSION, WRONGTYPE; GROUPTOOLARGE with the characters to save first
local cores, sessions, ties = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local fresh, remember = ARGV[5], tonumber(ARGV[6])
if remember > 0 then
  local before = redis.call('GET', KEYS[3])
  if before then
    local versions = {}
    for version in string.gmatch(before, '%d+') do versions[#versions + 1] = version end
    return {1, versions}
  end
end
name_members(ARGV, 3, 8, cores, sessions, ties)

local next_arg = 7 + cores + sessions + ties
local function take()
  next_arg = next_arg + 1
  return ARGV[next_arg]
end
local function skip(count)
  local first = next_arg + 1
  next_arg = next_arg + count
  return first
end

-- What is to be done, and whether it may be.
local changes, written = {}, {}
for i = 1, tonumber(ARGV[7]) do
  local name, what = take(), take()
  local key = at[name]
  local of_session = key > 3 + cores
  local change = {name = name, key = key, what = what, of_session = of_session}
  if redis.call('EXISTS', KEYS[key]) == 0 then
    return redis.error_reply((of_session and 'SESSIONGONE ' or 'NOTLOADED ') .. key)
  end
  local refused = cannot_raise(key)
  if refused then return refused end
  local closed = of_session and redis.call('HEXISTS', KEYS[key], 'closed_at') == 1
  change.over = closed and what == 'end'
  if closed and not change.over and what ~= 'guard' then
    return redis.error_reply('SESSIONCLOSED ' .. key)
  end
  for _ = 1, tonumber(take()) do
    local field, how, text = take(), take(), take()
    local held = redis.call('HGET', KEYS[key], field)
    if held ~= (how == '=' and text) then
      return {2, i - 1, field, held or false}
    end
  end
  change.fields = tonumber(take())
  change.first_field = skip(2 * change.fields)
  change.entries = tonumber(take())
  change.first_entry = skip(change.entries)
  if what ~= 'guard' and not change.over then
    written[#written + 1] = name
    if of_session then
      change.participants = redis.call('HGET', KEYS[key], 'participants') or ''
      refused = bad_participants(key, change.participants)
      if refused then return refused end
      need_participants(key, change.participants)
    end
  end
  changes[i] = change
end
if #written == 1 and changes[1].participants and not string.find(changes[1].participants, '%d') then
  return redis.error_reply('NOBODY ' .. changes[1].key)
end
if #found > 0 then return {0, found} end

-- Who takes part in a session that is tied is tied with it, so that one tie is the whole group.
local tied, plan, is_tied = {}, nil, {}
local function add(name)
  if not is_tied[name] and redis.call('EXISTS', KEYS[at[name]]) == 1 then
    is_tied[name] = true
    tied[#tied + 1] = name
  end
end
if #written > 1 then
  for _, change in ipairs(changes) do
    if change.what ~= 'guard' and not change.over then add(change.name) end
    for id in string.gmatch(change.participants or '', '%d+') do add(id) end
  end
  plan = plan_tie(tied, fresh, tonumber(ARGV[4]))
  if #found > 0 then return {0, found} end
end
if plan and plan.full then
  local whom = {}
  for id, key in pairs(at) do
    if key <= 3 + cores and redis.call('EXISTS', KEYS[key]) == 1 then whom[#whom + 1] = id end
  end
  return redis.error_reply('GROUPTOOLARGE 1 ' .. table.concat(whom, ' '))
end

-- From here on nothing can be refused.
local time = redis.call('TIME')
local versions = {}
for i, change in ipairs(changes) do
  local key = KEYS[change.key]
  if change.what == 'guard' or change.over then
    versions[i] = redis.call('HGET', key, 'version') or '0'
  else
    versions[i] = string.format('%.0f', redis.call('HINCRBY', key, 'version', 1))
    for j = change.first_field, change.first_field + 2 * change.fields - 1, 2 do
      redis.call('HSET', key, ARGV[j], ARGV[j + 1])
    end
    for j = change.first_entry, change.first_entry + change.entries - 1 do
      redis.call('RPUSH', KEYS[change.key + sessions], ARGV[j])
    end
    if change.what ~= 'write' then
      local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
      redis.call('HSET', key, 'closed_at', string.format('%.0f', now_ms))
    end
    if not change.of_session then mark(KEYS[1], KEYS[2], change.name) end
    for id in string.gmatch(change.participants or '', '%d+') do
      if redis.call('EXISTS', KEYS[at[id]]) == 1 then mark(KEYS[1], KEYS[2], id) end
    end
  end
end
if plan then tie(plan, tied, fresh) end
if remember > 0 then redis.call('SET', KEYS[3], table.concat(versions, ' '), 'PX', remember) end
return {1, versions}

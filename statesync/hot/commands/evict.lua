-- Deletes a core, only if all of it is saved: its version is the saved one, nothing marked it
-- since (a bare writer marks without raising the version), no claim on it is out, and it is not in
-- quarantine. Its sessions go with the last of their participants. Remembers the versions for as long as a slow restore
-- may still hold older rows.
-- Nothing is done where the core points at other sessions than expected, or a session names
-- somebody who is not among the others: the reply says what is so, for the next try.
-- KEYS: 1 core, 2 dirty, 3 claimed, 4 since, 5 evicted, 6 quarantine; then the sessions, their logs, their
--       evicted; then the others' cores
-- ARGV: 1 char_id, 2 ms to remember, 3 how many sessions, 4 others, 5 reference fields; then the
--       fields, what they hold, the others' char_ids
-- Returns: 1 if the core is gone; 0 if it, or a session that would go with it, has unsaved
--          changes; or -1, what the fields hold, and the sessions' participants
-- Errors: none
if redis.call('EXISTS', KEYS[1]) == 0 then return {1} end
local sessions, others, fields = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local names, found, participants, core_of = {}, {}, {}, {}
local expected = true
for i = 1, fields do
  names[i] = ARGV[5 + i]
  found[i] = redis.call('HGET', KEYS[1], names[i]) or ''
  expected = expected and found[i] == ARGV[5 + fields + i]
end
for i = 1, others do core_of[ARGV[5 + 2 * fields + i]] = KEYS[6 + 3 * sessions + i] end
for i = 1, sessions do
  participants[i] = redis.call('HGET', KEYS[6 + i], 'participants') or ''
  for id in string.gmatch(participants[i], '%d+') do
    expected = expected and (id == ARGV[1] or core_of[id])
  end
end
if not expected then return {-1, found, participants} end

local version = redis.call('HGET', KEYS[1], 'version')
if not version or version ~= redis.call('HGET', KEYS[1], 'saved_version') then return {0} end
local function unsaved(id)
  return redis.call('SISMEMBER', KEYS[2], id) == 1 or redis.call('ZSCORE', KEYS[3], id)
    or redis.call('HEXISTS', KEYS[6], id) == 1
end
if unsaved(ARGV[1]) then return {0} end
local last = {}
for i = 1, sessions do
  last[i] = true
  for id in string.gmatch(participants[i], '%d+') do
    if id ~= ARGV[1] and redis.call('EXISTS', core_of[id]) == 1 then last[i] = false end
  end
  for id in string.gmatch(participants[i], '%d+') do
    if last[i] and unsaved(id) then return {0} end
  end
end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('SET', KEYS[5], version, 'PX', ARGV[2])
for i = 1, sessions do
  if last[i] and redis.call('EXISTS', KEYS[6 + i]) == 1 then
    local held = redis.call('HGET', KEYS[6 + i], 'version') or '0'
    redis.call('SET', KEYS[6 + 2 * sessions + i], held, 'PX', ARGV[2])
    redis.call('DEL', KEYS[6 + i], KEYS[6 + sessions + i])
  end
end
return {1}

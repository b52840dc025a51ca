-- Opens a session of loaded characters: makes it, points their cores at it, writes what else is to
-- change in them, and marks them dirty.
-- Sent twice it does no harm: what the first run made counts as opened.
-- Uses: version, mark
-- KEYS: 1 session, 2 dirty, 3 since, then the cores
-- ARGV: 1 reference field, 2 session id, 3 how many cores, 4 how many of the session's fields; then
--       the char_ids; field, value, … of the session; field, value, … of the cores
-- Returns: the session's version
-- Errors: SESSIONEXISTS; with the key's number NOTLOADED, INSESSION, BADVERSION, WRONGTYPE
local cores, fields = tonumber(ARGV[3]), tonumber(ARGV[4])
local there = redis.call('HGET', KEYS[1], 'version')
local again = there
for i = 4, 3 + cores do
  if redis.call('EXISTS', KEYS[i]) == 0 then return redis.error_reply('NOTLOADED ' .. i) end
  local refused = cannot_raise(i)
  if refused then return refused end
  local held = redis.call('HGET', KEYS[i], ARGV[1])
  again = again and held == ARGV[2]
  if held and held ~= '' and held ~= ARGV[2] then return redis.error_reply('INSESSION ' .. i) end
end
if again then return tonumber(there) end
if redis.call('EXISTS', KEYS[1]) == 1 then return redis.error_reply('SESSIONEXISTS') end

local first_field = 4 + cores
local first_of_core = first_field + 1 + 2 * fields
redis.call('HSET', KEYS[1], 'version', 1)
for i = first_field + 1, first_of_core - 1, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
for i = 1, cores do
  local key = KEYS[3 + i]
  redis.call('HINCRBY', key, 'version', 1)
  redis.call('HSET', key, ARGV[1], ARGV[2])
  for j = first_of_core, #ARGV, 2 do redis.call('HSET', key, ARGV[j], ARGV[j + 1]) end
  mark(KEYS[2], KEYS[3], ARGV[4 + i])
end
return 1

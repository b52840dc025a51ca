-- Reads what says whether cores and sessions are as their rows, without their content.
-- Uses: keys
-- KEYS: 1 seals; then the cores, the sessions, the tombstones
-- ARGV: 1 how many cores, 2 how many sessions; then the ids of both, as the seals name them
-- Returns: one flat list: for each core 1, version or nil, saved_version or nil, or 0 and two nils
--          if it is gone; for each session the same, with its participants for saved_version; for
--          each tombstone the version or nil; for each core and session its entry of seals or nil
-- Errors: none
local seals, cores, sessions = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local next_keys = keys_after(1)
local reply = {}

local function give(keys, detail)
  for _, key in ipairs(keys) do
    local values = redis.pcall('HMGET', key, 'version', detail)
    local is_there = not values.err and redis.call('EXISTS', key) == 1
    local last = #reply
    reply[last + 1] = is_there and 1 or 0
    reply[last + 2] = is_there and values[1]
    reply[last + 3] = is_there and values[2]
  end
end

give(next_keys(cores), 'saved_version')
give(next_keys(sessions), 'participants')
for _, tombstone in ipairs(next_keys(#KEYS - 1 - cores - sessions)) do
  local version = redis.pcall('GET', tombstone)
  reply[#reply + 1] = type(version) == 'string' and version
end
for first = 3, #ARGV, 1000 do -- unpack gives no more than some thousands at once
  local last = math.min(first + 999, #ARGV)
  local entries = redis.pcall('HMGET', seals, unpack(ARGV, first, last))
  for i = 1, last - first + 1 do reply[#reply + 1] = not entries.err and entries[i] end
end
return reply

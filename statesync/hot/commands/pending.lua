-- Reads which characters have unsaved changes, the oldest change first. One that a bare writer
-- marked and that was never claimed has no age, and comes last.
-- Uses: clock, types
-- KEYS: 1 dirty, 2 claimed, 3 since, 4 quarantine
-- ARGV: 1 how many at the most, 2 the char_id to read alone, or ""
-- Returns: dirty, claimed, quarantined; then for each its name, ms since its first unsaved change
--          or "", and its marks with blanks between them
-- Errors: WRONGTYPE with the key's number
local dirty, claimed, since, quarantine = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local limit, char_id = tonumber(ARGV[1]), ARGV[2]
local refused = marks_error(1, 'set', 'zset', 'zset', 'hash')
if refused then return refused end
local now, longest = now_ms(), 3 + 3 * limit
local reply = {
  redis.call('SCARD', dirty), redis.call('ZCARD', claimed), redis.call('HLEN', quarantine)}
local seen = {}

local function add(name)
  if seen[name] or #reply >= longest then return end
  seen[name] = true
  local marks = {}
  if redis.call('SISMEMBER', dirty, name) == 1 then marks[#marks + 1] = 'dirty' end
  if redis.call('ZSCORE', claimed, name) then marks[#marks + 1] = 'claimed' end
  if redis.call('HEXISTS', quarantine, name) == 1 then marks[#marks + 1] = 'quarantined' end
  if #marks == 0 then return end
  local since_ms = tonumber(redis.call('ZSCORE', since, name) or nil)
  if since_ms and math.abs(since_ms) == math.huge then since_ms = nil end -- another writer's
  reply[#reply + 1] = name
  reply[#reply + 1] = since_ms and integer(math.max(0, now - since_ms)) or ''
  reply[#reply + 1] = table.concat(marks, ' ')
end

if char_id ~= '' then
  add(char_id)
  return reply
end
for _, name in ipairs(redis.call('ZRANGE', since, 0, limit - 1)) do add(name) end
-- Fewer than that have an age: then twice as many of the others hold enough without one.
if #reply < longest then
  for _, name in ipairs(redis.call('SRANDMEMBER', dirty, 2 * limit)) do add(name) end
  for _, name in ipairs(redis.call('HRANDFIELD', quarantine, 2 * limit)) do add(name) end
end
return reply

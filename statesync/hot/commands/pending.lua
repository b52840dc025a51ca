-- Reads who has unsaved changes, the oldest change first. Who was marked by a bare writer and never
-- claimed has no age, and comes last.
-- KEYS: 1 dirty, 2 claimed, 3 since, 4 quarantine
-- ARGV: 1 how many at the most, 2 the char_id to read alone, or ""
-- Returns: dirty, claimed, quarantined; then for each its name, ms since its first unsaved change
--          or "", and its marks with blanks between them
-- Errors: none
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local limit = tonumber(ARGV[1])
local reply = {
  redis.call('SCARD', KEYS[1]), redis.call('ZCARD', KEYS[2]), redis.call('HLEN', KEYS[4])}
local seen = {}
local function add(name)
  if seen[name] or #reply >= 3 + 3 * limit then return end
  seen[name] = true
  local marks = {}
  if redis.call('SISMEMBER', KEYS[1], name) == 1 then marks[#marks + 1] = 'dirty' end
  if redis.call('ZSCORE', KEYS[2], name) then marks[#marks + 1] = 'claimed' end
  if redis.call('HEXISTS', KEYS[4], name) == 1 then marks[#marks + 1] = 'quarantined' end
  if #marks == 0 then return end
  local since = redis.call('ZSCORE', KEYS[3], name)
  reply[#reply + 1] = name
  reply[#reply + 1] = since and string.format('%.0f', math.max(0, now_ms - since)) or ''
  reply[#reply + 1] = table.concat(marks, ' ')
end
if ARGV[2] ~= '' then
  add(ARGV[2])
  return reply
end
for _, name in ipairs(redis.call('ZRANGE', KEYS[3], 0, limit - 1)) do add(name) end
-- Fewer than that have an age: then twice as many of the others hold enough who have none.
if #reply < 3 + 3 * limit then
  for _, name in ipairs(redis.call('SRANDMEMBER', KEYS[1], 2 * limit)) do add(name) end
  for _, name in ipairs(redis.call('HRANDFIELD', KEYS[4], 2 * limit)) do add(name) end
end
return reply

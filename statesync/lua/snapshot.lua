-- Reads a claimed character at one instant and raises its version, which orders all snapshots.
-- The claim covers every change made so far, so the dirty mark is cleared here: one that is set
-- afterwards means a change that this snapshot does not hold.
-- KEYS: 1 dirty, 2 claimed, 3 core
-- ARGV: 1 char_id, 2 token, 3 most bytes
-- Returns: the time in ms, then the core's field, value, …; only the time where the core is gone
-- Errors: LEASELOST, TOOLARGE with the largest field, BADVERSION, WRONGTYPE
if redis.call('ZSCORE', KEYS[2], ARGV[1]) ~= ARGV[2] then return redis.error_reply('LEASELOST') end
local core = redis.pcall('HGETALL', KEYS[3])
if core.err then return core end
local time = redis.call('TIME')
local now_ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
if #core == 0 then
  redis.call('SREM', KEYS[1], ARGV[1])
  return {now_ms}
end
local size, largest, most = 0, '', 0
for i = 1, #core, 2 do
  local bytes = #core[i] + #core[i + 1]
  size = size + bytes
  if bytes > most then largest, most = core[i], bytes end
end
if size > tonumber(ARGV[3]) then
  return redis.error_reply('TOOLARGE ' .. size .. ' ' .. string.sub(largest, 1, 100))
end
local version = redis.pcall('HINCRBY', KEYS[3], 'version', 1)
if type(version) ~= 'number' then
  -- Anything else, such as being out of memory, is the server's trouble and no character's.
  local bad = string.find(version.err, 'not an integer') or string.find(version.err, 'overflow')
  return bad and redis.error_reply('BADVERSION') or version
end
redis.call('SREM', KEYS[1], ARGV[1])
core[#core + 1] = 'version'
core[#core + 1] = string.format('%.0f', version)
table.insert(core, 1, now_ms)
return core

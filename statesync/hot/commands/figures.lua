-- Reads what operators measure, besides what status.lua gives. If others have put something else under
-- a key, that figure is missing.
-- Uses: clock
-- KEYS: 1 heartbeat, 2 scrubbed, 3 histograms
-- ARGV: none
-- Returns: ms since the last sweep of the schedule, and since the end of the last scrub, or "" for each;
--          what INFO says of the memory and of persistence; then field, number, … of the histograms
-- Errors: none
local heartbeat, scrubbed, histograms = KEYS[1], KEYS[2], KEYS[3]
local now = now_ms()

local function age_of(key)
  local at_ms = redis.pcall('GET', key)
  at_ms = type(at_ms) == 'string' and tonumber(at_ms)
  return at_ms and math.abs(at_ms) < math.huge and integer(math.max(0, now - at_ms)) or ''
end

local reply = {age_of(heartbeat), age_of(scrubbed), redis.call('INFO', 'memory') .. redis.call('INFO', 'persistence')}
for i, part in ipairs(redis.pcall('HGETALL', histograms)) do reply[3 + i] = part end
return reply

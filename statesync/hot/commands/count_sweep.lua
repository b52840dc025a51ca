-- Counts a sweep in Redis, and finds which server went back in time: the one whose counter is below
-- what the other remembers of it. A server that has started since may have lost its last changes.
-- In both cases everything live is to be compared with its rows; if it is PostgreSQL that went back,
-- what is live is to be saved again first; if it is Redis, what it cannot tell the history of is not
-- to be trusted. A counter that went back is not raised: until PostgreSQL has taken it in, the next
-- sweep finds the same.
-- If Redis went back or has started, PostgreSQL knows better whether it is being recovered: what
-- Redis has forgotten of that is noted again, what is over is dropped.
-- Uses: at_maxmemory, clock, types, comparison
-- KEYS: 1 servers
-- ARGV: 1 PostgreSQL's sweeps, 2 its run id, 3 Redis' sweeps as PostgreSQL remembers them, 4 its run
--       id or "", 5 "1" if it remembers that it is being recovered, else "0"
-- Returns: Redis' sweeps, its run id, PostgreSQL's sweeps as Redis remembers them or ""; then as
--          1 or 0 whether Redis went back, and that was not known yet; the same of PostgreSQL;
--          whether one of them has started
-- Errors: WRONGTYPE with the key's number
local NOTE_MS = 12 * 3600 * 1000
local servers = KEYS[1]
local postgresql_sweeps, postgresql_run_id = tonumber(ARGV[1]), ARGV[2]
local remembered_sweeps, remembered_run_id = tonumber(ARGV[3]), ARGV[4]
local is_recovering = ARGV[5] == '1'
local refused = type_error(1, 'hash')
if refused then return refused end

-- Returns the number that a field holds; 0 if it holds none.
local function number_of(text)
  return text and #text < 16 and tonumber(string.match(text, '^%d+$') or '') or 0
end

local memory = redis.call('HMGET', servers, 'sweeps', 'postgresql_sweeps', 'postgresql_run_id')
local sweeps, known_sweeps, known_run_id = number_of(memory[1]), memory[2], memory[3]
local run_id = redis_run_id()
redis.call('HSET', servers, 'counted_ms', integer(now_ms()))

-- Notes twice a day how much memory is used, and keeps the note before: `doctor` shows the growth.
local function note_memory()
  local noted = redis.call('HGET', servers, 'memory')
  local age_ms = now_ms() - (tonumber(string.match(noted or '', '^(%d+) %d+$')) or 0)
  if age_ms >= 0 and age_ms < NOTE_MS then return end
  local used = string.match(redis.call('INFO', 'memory'), 'used_memory:(%d+)')
  if noted then redis.call('HSET', servers, 'memory_before', noted) end
  redis.call('HSET', servers, 'memory', integer(now_ms()) .. ' ' .. used)
end
note_memory()

local redis_started = remembered_run_id ~= '' and remembered_run_id ~= run_id
local has_started = redis_started or (known_run_id and known_run_id ~= postgresql_run_id)
local was_recovering = redis.call('HEXISTS', servers, 'recovering') == 1
local has_forgotten = redis_started and is_recovering
  and (not was_recovering or is_noted(servers, integer(sweeps)))
local redis_went_back = sweeps + 1 <= remembered_sweeps or has_forgotten
if not redis_went_back then
  sweeps = sweeps + 1
  redis.call('HSET', servers, 'sweeps', integer(sweeps))
end
local postgresql_went_back = postgresql_sweeps < number_of(known_sweeps)
local redis_is_news = redis_went_back and not is_noted(servers, integer(sweeps))
local postgresql_is_news = postgresql_went_back and not was_recovering
if not (redis_went_back or redis_started) then is_recovering = was_recovering end
if postgresql_went_back or is_recovering then
  redis.call('HSETNX', servers, 'recovering', integer(now_ms()))
else
  redis.call('HDEL', servers, 'recovering')
end
if redis_went_back then
  redis.call('HSET', servers, 'settling', integer(now_ms()))
  note(servers, integer(sweeps))
end
if redis_is_news or postgresql_is_news or has_started then begin_comparison(servers) end
local flags = {
  redis_went_back, redis_is_news, postgresql_went_back, postgresql_is_news, has_started}
local reply = {sweeps, run_id, known_sweeps or ''}
for i = 1, 5 do reply[3 + i] = flags[i] and 1 or 0 end
return reply

-- Takes the comparison of everything live with its rows, for as long as a lease; one has it at a
-- time.
-- Uses: at_maxmemory, clock, types, comparison
-- KEYS: 1 servers
-- ARGV: 1 token, 2 lease_us, 3 "1" to begin one if there is none, else "0"
-- Returns: 1 if it is ours now, else 0; where it stands, or "" if there is none; as 1 or 0 whether
--          Redis went back, and PostgreSQL is to be recovered
-- Errors: WRONGTYPE with the key's number
local servers = KEYS[1]
local token, lease_us, begins = ARGV[1], ARGV[2], ARGV[3] == '1'
local refused = type_error(1, 'hash')
if refused then return refused end
local is_recovering = redis.call('HEXISTS', servers, 'recovering')
local is_settling = redis.call('HEXISTS', servers, 'settling')
local stands_at = redis.call('HGET', servers, 'comparing')
local is_readable = stands_at and string.match(stands_at, '^%d+ %d+ %d+ %d+$')
local is_needed = stands_at or begins or is_settling == 1 or is_recovering == 1
if is_needed and not is_readable then begin_comparison(servers) end
stands_at = redis.call('HGET', servers, 'comparing') or ''

local now = now_us()
local holder = redis.call('HMGET', servers, 'comparer', 'comparer_until')
local is_held = holder[1] and holder[1] ~= token and (tonumber(holder[2] or '') or 0) > now
if stands_at == '' or is_held then return {0, stands_at, is_settling, is_recovering} end
redis.call('HSET', servers, 'comparer', token, 'comparer_until', integer(now + lease_us))
return {1, stands_at, is_settling, is_recovering}

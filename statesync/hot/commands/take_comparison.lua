-- Takes the comparison of everything live with its rows, for as long as a lease; one has it at a
-- time.
-- Uses: clock, types, comparison
-- KEYS: 1 servers
-- ARGV: 1 token, 2 lease_us, 3 "1" to begin one if there is none, else "0"
-- Returns: 1 if it is ours now, else 0; where it stands, or "" if there is none; 1 if PostgreSQL is
--          to be recovered, else 0
-- Errors: WRONGTYPE with the key's number
local servers = KEYS[1]
local token, lease_us, begins = ARGV[1], ARGV[2], ARGV[3] == '1'
local refused = type_error(1, 'hash')
if refused then return refused end
local is_recovering = redis.call('HEXISTS', servers, 'recovering')
local settling = redis.call('HGET', servers, 'settling')
local is_readable = settling and string.match(settling, '^%d+ %d+ %d+$')
if not is_readable and (settling or begins or is_recovering == 1) then begin_comparison(servers) end
settling = redis.call('HGET', servers, 'settling') or ''

local now = now_us()
local holder = redis.call('HMGET', servers, 'comparer', 'comparer_until')
local is_held = holder[1] and holder[1] ~= token and (tonumber(holder[2] or '') or 0) > now
if settling == '' or is_held then return {0, settling, is_recovering} end
redis.call('HSET', servers, 'comparer', token, 'comparer_until', integer(now + lease_us))
return {1, settling, is_recovering}

-- Notes that a server went back in time, as a backup found: everything live is to be compared with
-- its rows, and if it is PostgreSQL, saved again first.
-- Uses: clock, types, comparison
-- KEYS: 1 servers
-- ARGV: 1 the flag: "settling" if Redis went back, "recovering" if PostgreSQL did
-- Returns: 1 if that was not known yet, else 0
-- Errors: WRONGTYPE with the key's number
local servers, flag = KEYS[1], ARGV[1]
local refused = type_error(1, 'hash')
if refused then return refused end
if redis.call('HSETNX', servers, flag, integer(now_ms())) == 0 then return 0 end
begin_comparison(servers)
return 1

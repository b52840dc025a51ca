-- Notes that a server went back in time, as a backup found: everything live is to be compared with
-- its rows, and if it is PostgreSQL, saved again first. Redis goes back only as it starts, so a
-- second finding in one run of it is of the same loss.
-- Uses: at_maxmemory, clock, types, comparison
-- KEYS: 1 servers
-- ARGV: 1 the flag: "settling" if Redis went back, "recovering" if PostgreSQL did; 2 "1" to note
--       it, "0" to ask only
-- Returns: 1 if that was not known yet, else 0
-- Errors: WRONGTYPE with the key's number
local servers, flag, notes = KEYS[1], ARGV[1], ARGV[2] == '1'
local refused = type_error(1, 'hash')
if refused then return refused end
if redis.call('HEXISTS', servers, flag) == 1 then return 0 end
if flag == 'settling' and is_noted(servers) then return 0 end
if not notes then return 1 end
redis.call('HSET', servers, flag, integer(now_ms()))
if flag == 'settling' then
  local sweeps = string.match(redis.call('HGET', servers, 'sweeps') or '', '^%d+$')
  note(servers, sweeps or '0')
end
begin_comparison(servers)
return 1

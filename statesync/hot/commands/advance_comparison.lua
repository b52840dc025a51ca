-- Notes where the comparison stands after a page, and renews the lease. At its end the flags go: the
-- loss is settled. Nothing is done if it has passed to another worker or has begun anew.
-- Uses: at_maxmemory, clock, types
-- KEYS: 1 servers
-- ARGV: 1 token, 2 lease_us, 3 where it stood, 4 where it stands now, or "" at its end
-- Returns: 1 if that is noted, else 0
-- Errors: WRONGTYPE with the key's number
local servers = KEYS[1]
local token, lease_us, before, after = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local refused = type_error(1, 'hash')
if refused then return refused end
local held = redis.call('HMGET', servers, 'comparer', 'comparing')
if held[1] ~= token or held[2] ~= before then return 0 end
if after == '' then
  redis.call('HDEL', servers, 'comparing', 'settling', 'recovering', 'comparer', 'comparer_until')
else
  local until_us = integer(now_us() + lease_us)
  redis.call('HSET', servers, 'comparing', after, 'comparer_until', until_us)
end
return 1

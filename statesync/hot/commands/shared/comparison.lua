-- Begins the comparison of everything live with its rows, or begins it anew: the cursor, since when,
-- and how many of this round could not be saved. If Redis went back for certain, what nothing is
-- known of may be of a forgotten history.
local function begin_comparison(servers, redis_went_back)
  if redis_went_back then redis.call('HSET', servers, 'lost', 1) end
  redis.call('HSET', servers, 'settling', '0 ' .. integer(now_ms()) .. ' 0')
end

-- Begins the comparison of everything live with its rows, or begins it anew: the cursor, since when,
-- and how many of this round could not be saved.
local function begin_comparison(servers)
  redis.call('HSET', servers, 'comparing', '0 ' .. integer(now_ms()) .. ' 0')
end

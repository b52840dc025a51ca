-- Begins the comparison of everything live with its rows, or begins it anew: the cursor, since when,
-- how many of this round could not be saved, and which round it is.
local function begin_comparison(servers)
  redis.call('HSET', servers, 'comparing', '0 ' .. integer(now_ms()) .. ' 0 1')
end

local function redis_run_id()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or ''
end

-- Notes that Redis went back, in this run of it and at this counter of sweeps.
local function note(servers, sweeps)
  redis.call('HSET', servers, 'noted', redis_run_id() .. ' ' .. sweeps)
end

-- Returns whether that is noted; without sweeps, whether any of this run is.
local function is_noted(servers, sweeps)
  local noted = redis.call('HGET', servers, 'noted') or ''
  local run_id, noted_sweeps = string.match(noted, '^(%w+) (%d+)$')
  return run_id == redis_run_id() and (not sweeps or noted_sweeps == sweeps)
end

-- Ties what one change has changed, so that it is saved together: all are members of one tie, a
-- hash of name -> token of the last change that tied it. A member's own hash names its tie.

-- Plans which tie the members of a change are to be in; notes what it needs to know for that. The
-- plan is too large if the tie would have too many members and a save would help.
local function plan_tie(names, new_tie, max_members)
  local plan = {to = new_tie, from = {}, size = 0}
  local seen, largest = {}, -1
  for _, name in ipairs(names) do
    local tie = redis.call('HGET', KEYS[number_of[name]], TIE)
    if not tie or tie == '' then
      plan.size = plan.size + 1
    elseif not number_of[tie] then
      need(tie, number_of[name], TIE, tie)
    elseif not seen[tie] then
      seen[tie] = true
      local size = redis.call('HLEN', KEYS[number_of[tie]])
      plan.size = plan.size + size
      plan.from[#plan.from + 1] = tie
      if size > largest then plan.to, largest = tie, size end
    end
  end
  for _, tie in ipairs(plan.from) do
    if tie ~= plan.to then
      local number = number_of[tie]
      for _, name in ipairs(redis.call('HKEYS', KEYS[number])) do need(name, number, '', name) end
    end
  end
  plan.too_large = plan.size > max_members and #plan.from > 0
  return plan
end

-- Moves the members of a tie to another one.
local function merge_tie(from, to)
  local entries = redis.call('HGETALL', KEYS[number_of[from]])
  for i = 1, #entries, 2 do
    local name, token = entries[i], entries[i + 1]
    local member = KEYS[number_of[name]]
    if redis.call('HGET', member, TIE) == from then
      redis.call('HSET', KEYS[number_of[to]], name, token)
      redis.call('HSET', member, TIE, to)
    end
  end
  redis.call('DEL', KEYS[number_of[from]])
end

-- Ties the members by the token of this change; smaller ties are merged into the largest.
local function tie(plan, names, token)
  for _, from in ipairs(plan.from) do
    if from ~= plan.to then merge_tie(from, plan.to) end
  end
  for _, name in ipairs(names) do
    redis.call('HSET', KEYS[number_of[plan.to]], name, token)
    redis.call('HSET', KEYS[number_of[name]], TIE, plan.to)
  end
end

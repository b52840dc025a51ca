-- Ties what one change has changed, so that it is saved together: all are members of one tie, a
-- hash of name -> token of the last change that tied it. A member's own hash names its tie.

-- Says which tie the members of a change are to be in, or notes whom it takes to know that. It is
-- full where it would have too many members and a save would help.
local function plan_tie(names, fresh, most)
  local plan = {to = fresh, from = {}, size = 0}
  local seen, largest = {}, -1
  for _, name in ipairs(names) do
    local tie = redis.call('HGET', KEYS[at[name]], TIE)
    if not tie or tie == '' then
      plan.size = plan.size + 1
    elseif not at[tie] then
      need(tie, at[name], TIE, tie)
    elseif not seen[tie] then
      seen[tie] = true
      local size = redis.call('HLEN', KEYS[at[tie]])
      plan.size = plan.size + size
      plan.from[#plan.from + 1] = tie
      if size > largest then plan.to, largest = tie, size end
    end
  end
  if #plan.from > 1 then
    for _, tie in ipairs(plan.from) do
      if tie ~= plan.to then
        for _, name in ipairs(redis.call('HKEYS', KEYS[at[tie]])) do need(name, at[tie], '', name) end
      end
    end
  end
  plan.full = plan.size > most and #plan.from > 0
  return plan
end

-- Ties the members by the token of this change; smaller ties are merged into the largest.
local function tie(plan, names, token)
  local to = KEYS[at[plan.to]]
  for _, from in ipairs(plan.from) do
    if from ~= plan.to then
      local entries = redis.call('HGETALL', KEYS[at[from]])
      for i = 1, #entries, 2 do
        local hash = KEYS[at[entries[i]]]
        if redis.call('HGET', hash, TIE) == from then
          redis.call('HSET', to, entries[i], entries[i + 1])
          redis.call('HSET', hash, TIE, plan.to)
        end
      end
      redis.call('DEL', KEYS[at[from]])
    end
  end
  for _, name in ipairs(names) do
    redis.call('HSET', to, name, token)
    redis.call('HSET', KEYS[at[name]], TIE, plan.to)
  end
end

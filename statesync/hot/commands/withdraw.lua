-- Withdraws seals whose transactions have certainly written nothing, of members whose claims are
-- still ours. Without the claim another worker may have given a seal to the row (cut_seals).
-- Uses: at_maxmemory, types, fields, seals
-- KEYS: 1 claimed, 2 seals
-- ARGV: 1, packed: groups, each its seal, its claims (char_id, token), the ids of its sessions
-- Returns: 1
-- Errors: WRONGTYPE with the key's number
local claimed, seals = KEYS[1], KEYS[2]
local refused = marks_error(1, 'zset', 'hash')
if refused then return refused end

local function withdraw(seal, id)
  local words = redis.call('HGET', seals, id)
  if words and has_word(words, seal) then write_entry(seals, id, without_word(words, seal)) end
end

for _, group in ipairs(cmsgpack.unpack(ARGV[1])) do
  local seal, claims, session_ids = unpack(group)
  local all_ours = true
  for _, claim in ipairs(claims) do
    local char_id, token = unpack(claim)
    if redis.call('ZSCORE', claimed, char_id) == token then
      withdraw(seal, char_id)
    else
      all_ours = false
    end
  end
  for _, id in ipairs(all_ours and session_ids or {}) do withdraw(seal, id) end
end
return 1

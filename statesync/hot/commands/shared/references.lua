-- Reads which sessions a core points at. References are pairs of a field and what it should hold.
-- Returns what the fields hold, and whether that is so.
local function read_references(core, references)
  local session_ids, as_expected = {}, true
  for i, reference in ipairs(references) do
    local field, expected = unpack(reference)
    session_ids[i] = redis.call('HGET', core, field) or ''
    as_expected = as_expected and session_ids[i] == expected
  end
  return session_ids, as_expected
end

-- Returns a quarantine entry as JSON; it counts on from the entry before, if there is one.
local function quarantine_entry(before, reason, field)
  local now = now_us() / 1000000
  local entry = {error = reason, field = field, attempts = 1, first_at = now, last_at = now}
  local readable, old = pcall(cjson.decode, before or '')
  if readable and type(old) == 'table' then
    entry.attempts = (tonumber(old.attempts) or 0) + 1
    entry.first_at = tonumber(old.first_at) or now
  end
  return cjson.encode(entry)
end

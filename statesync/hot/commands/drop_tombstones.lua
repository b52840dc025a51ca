-- Deletes tombstones that are above their rows, since PostgreSQL went back: the row is what there is.
-- KEYS: the tombstones
-- ARGV: the version that each had
-- Returns: nothing
-- Errors: none
for i, tombstone in ipairs(KEYS) do
  local version = redis.pcall('GET', tombstone)
  if version == ARGV[i] then redis.call('DEL', tombstone) end
end

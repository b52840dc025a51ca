-- Reads a page of the quarantine.
-- KEYS: 1 quarantine
-- ARGV: 1 cursor, 2 about how many
-- Returns: the next cursor ("0" at the end), then char_id, entry, char_id, entry, …
-- Errors: none
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
table.insert(page[2], 1, page[1])
return page[2]

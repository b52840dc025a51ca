-- Reads a page of the quarantine.
-- KEYS: 1 quarantine
-- ARGV: 1 cursor, 2 about how many
-- Returns: the next cursor ("0" at the end), then char_id, entry, char_id, entry, …
-- Errors: none
local quarantine = KEYS[1]
local cursor, count = ARGV[1], ARGV[2]
local page = redis.call('HSCAN', quarantine, cursor, 'COUNT', count)
local next_cursor, reply = page[1], page[2]
table.insert(reply, 1, next_cursor)
return reply

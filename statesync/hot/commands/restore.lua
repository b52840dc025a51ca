-- Restores cores from PostgreSQL, each only if it is absent, and then its sessions, each only if
-- the core points at it and it is absent: another character may still be playing in it. Several in
-- one script share its call and its arguments; a refusal of one leaves the others alone.
-- A row that was read before the character was played, saved and evicted again is refused: it is
-- older than the tombstone. So is a log that was not staged whole, and an item that was only to
-- bring back sessions of a core that is gone by now.
-- A character that a live session does not name has left it while it was not loaded. One that finds
-- a live session that is not as its row is marked: what happened in the session while none of its
-- participants was loaded has no mark.
-- What became of a core is counted here: a call of its own would make a login wait once more.
-- While PostgreSQL is being brought up from an older state, nothing is restored.
-- Uses: types, mark, fields, seals, restore
-- KEYS: 1 dirty, 2 since, 3 stats, 4 seals, 5 servers, 6 nonces; then for each character its core, tombstone;
--       for each of its sessions the hash, log, tombstone, staged log
-- ARGV: 1, packed: for each character char_id, the row's version or "" for its sessions alone,
--       whether the core is not as its row, its fields, its sessions (each a reference field, id,
--       version, length of its log, fields, the row's seal or ""), and the row's seal or ""
-- Returns: for each character a text: "restored", "live" or "stale", and for each of its sessions
--          "restored", "live" or "left"; or the error
-- Errors: WENTBACK; with the key's number WRONGTYPE; as text if it is a character's
local stats, servers = KEYS[3], KEYS[5]
local marks = {dirty = KEYS[1], since = KEYS[2], seals = KEYS[4], nonces = KEYS[6]}
local items = cmsgpack.unpack(ARGV[1])

local refused = marks_error(1, 'set', 'zset') or marks_error(4, 'hash', 'hash', 'hash')
if refused then return refused end
if redis.call('HEXISTS', servers, 'recovering') == 1 then return redis.error_reply('WENTBACK') end
local replies, counts = restore_all(marks, 7, items)
for outcome, count in pairs(counts) do redis.pcall('HINCRBY', stats, outcome, count) end
return replies

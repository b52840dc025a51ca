-- Marks a quarantined character dirty again; the entry goes when the character is saved.
-- What is no character id cannot be retried: its entry stays. Nor can a character that is not
-- loaded: there is nothing to save, and a mark would count as a loss once more.
-- Uses: at_maxmemory, types
-- KEYS: 1 quarantine, 2 dirty, 3 core
-- ARGV: 1 char_id
-- Returns: 1 if it was in quarantine, else 0
-- Errors: NOTLOADED 3; WRONGTYPE with the key's number
local quarantine, dirty, core = KEYS[1], KEYS[2], KEYS[3]
local char_id = ARGV[1]
local refused = type_error(1, 'hash') or type_error(2, 'set')
if refused then return refused end
if redis.call('HEXISTS', quarantine, char_id) == 0 then return 0 end
if redis.call('EXISTS', core) == 0 then return redis.error_reply('NOTLOADED 3') end
redis.call('SADD', dirty, char_id)
return 1

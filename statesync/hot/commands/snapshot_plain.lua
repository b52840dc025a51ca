-- Reads claimed characters that are plain, at one instant, and raises their versions, as snapshot.lua
-- does for groups. Most characters are plain: in no session and no tie, their last save acknowledged,
-- no core field absent. Any other is left as it is; of those that point at members of their group the
-- reply says at which. Nobody is plain while a server that went back in time, or has started, is settled.
-- Uses: at_maxmemory, clock, types, version, fields, seals
-- KEYS: 1 dirty, 2 claimed, 3 since, 4 seals, 5 nonces, 6 servers, then the cores
-- ARGV: 1, packed: seal, script_bytes (whoever comes once the hashes are more is not plain),
--       words_bytes (an entry of seals that is longer is full), the fields that name members, those
--       that must be there, ids, tokens
-- Returns: packed: at_ms, the plain ones' places among the ids (from 0), their versions, their seals
--          before this one, their nonces or "", their hashes (field, value, …), and of the others
--          that name members the place, field, value, place, …
-- Errors: WRONGTYPE with the key's number
local dirty, claimed, since, seals, nonces, servers =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local seal, left_bytes, words_bytes, naming, needed, ids, tokens =
  unpack(cmsgpack.unpack(ARGV[1]))
local why = marks_error(1, 'set', 'zset', 'zset', 'hash', 'hash', 'hash')
if why then return why end
local at_ms = now_ms()
local places, versions, entries, given_nonces, hashes, named = {}, {}, {}, {}, {}, {}
local plain, writes = {}, {}

local NEEDED, kind_of = 1, {version = 'version'}
for _, field in ipairs(naming) do kind_of[field] = 'member' end
for _, field in ipairs(needed) do kind_of[field] = NEEDED end

-- Returns whether nothing in a hash needs a closer look; notes the members that it names.
local function is_plain(place, hash)
  local is_odd, found = false, 0
  for i = 1, #hash, 2 do
    local field, value = hash[i], hash[i + 1]
    local kind = kind_of[field]
    left_bytes = left_bytes - #field - #value
    if kind == NEEDED then
      found = found + 1
    elseif kind == 'version' then
      is_odd = is_odd or is_bad_version(value)
    elseif kind and value ~= '' then
      is_odd = true
      local last = #named
      named[last + 1], named[last + 2], named[last + 3] = place, field, value
    end
  end
  return not is_odd and found == #needed and left_bytes > 0
end

local function give(place, id, key, words, nonces_before)
  if not words or #words > words_bytes or string.find(words, '%a') then return end
  local hash = redis.pcall('HGETALL', key)
  if hash.err or #hash == 0 or not is_plain(place, hash) then return end
  local n = #plain + 1
  plain[n], places[n], hashes[n], entries[n] = id, place, hash, words
  given_nonces[n] = nonces_before or ''
  versions[n] = redis.call('HINCRBY', key, 'version', 1)
  writes[2 * n - 1] = id
  writes[2 * n] = is_last_word(words, seal) and words or words .. ' ' .. seal
end

local function give_all()
  local held = redis.call('ZMSCORE', claimed, unpack(ids))
  local words = redis.call('HMGET', seals, unpack(ids))
  local nonces_of = {}
  if redis.call('EXISTS', nonces) == 1 then nonces_of = redis.call('HMGET', nonces, unpack(ids)) end
  for i, id in ipairs(ids) do
    if held[i] == tokens[i] then give(i - 1, id, KEYS[6 + i], words[i], nonces_of[i]) end
  end
  if #plain == 0 then return end
  redis.call('HSET', seals, unpack(writes))
  for i, is_dirty in ipairs(redis.call('SMISMEMBER', dirty, unpack(plain))) do
    if is_dirty == 1 then -- marked since the claim, maybe by a bare writer
      redis.call('SREM', dirty, plain[i])
      redis.call('ZADD', since, 'NX', integer(at_ms), plain[i])
    end
  end
end

local flags = redis.call('HMGET', servers, 'comparing', 'settling', 'recovering')
if not (flags[1] or flags[2] or flags[3]) then give_all() end
return cmsgpack.pack({at_ms, places, versions, entries, given_nonces, hashes, named})

-- Moves some dirty characters to the claimed ones: one step of a pass over the dirty set. How far
-- the pass has come is kept, so that sweeps that follow each other, or run side by side, share one
-- pass; if each began anew it would look at what the others have emptied.
-- A claimed character stays dirty until that backup is acknowledged, so that sweeps that come
-- faster than saves cannot supersede each other for ever. What is no character id goes to
-- quarantine, so that it cannot block the queue.
-- Uses: clock, types, quarantine
-- KEYS: 1 dirty, 2 claimed, 3 since, 4 quarantine, 5 the pass
-- ARGV: 1 lease in µs, 2 most claims in flight, 3 about how many to look at
-- Returns: number of the pass and its cursor before this step; number of the pass afterwards, or
--          "full" if no more may be in flight; then char_id, token, char_id, token, …
-- Errors: WRONGTYPE with the key's number
local dirty, claimed, since, quarantine, pass = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local lease_us, max_in_flight, count = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local NO_ID = 'not a character id: it must be an integer from 1 to 2^63-1'

local refused = marks_error(1, 'set', 'zset', 'zset', 'hash', 'hash')
if refused then return refused end
local function is_number(text) return #text < 19 and string.match(text, '^%d+$') end

local position = redis.call('HMGET', pass, 'number', 'cursor')
local number, cursor = position[1] or '0', position[2] or '0'
if not is_number(number) or not is_number(cursor) then -- not ours: a new pass begins
  redis.call('DEL', pass)
  number, cursor = '0', '0'
end
local room = max_in_flight - redis.call('ZCARD', claimed)
if room <= 0 then return {number, cursor, 'full'} end
local now = now_us()
local token, at_ms = integer(now + lease_us), integer(math.floor(now / 1000))
local page = redis.call('SSCAN', dirty, cursor, 'COUNT', count)
local next_cursor, names = page[1], page[2]
local reply = {number, cursor, number}

local function is_char_id(name)
  return string.match(name, '^[1-9]%d*$')
    and (#name < 19 or (#name == 19 and name <= '9223372036854775807'))
end

local function set_aside(name)
  redis.call('SREM', dirty, name)
  redis.call('ZREM', since, name)
  redis.call('HSET', quarantine, name, quarantine_entry(nil, NO_ID, cjson.null))
end

-- Moves characters, as many as there is room for. Returns whether it was too little.
local function claim(char_ids)
  local is_claimed = redis.call('ZMSCORE', claimed, unpack(char_ids))
  local moved, tokens, times = {}, {}, {}
  local full = false
  for i, char_id in ipairs(char_ids) do
    if not is_claimed[i] and room == 0 then
      full = true
      break
    end
    if not is_claimed[i] then
      room = room - 1
      moved[#moved + 1] = char_id
      tokens[2 * #moved - 1], tokens[2 * #moved] = token, char_id
      times[2 * #moved - 1], times[2 * #moved] = at_ms, char_id
      reply[#reply + 1], reply[#reply + 2] = char_id, token
    end
  end
  if #moved > 0 then
    redis.call('SREM', dirty, unpack(moved))
    redis.call('ZADD', claimed, unpack(tokens))
    redis.call('ZADD', since, 'NX', unpack(times))
  end
  return full
end

local char_ids, seen = {}, {}
for _, name in ipairs(names) do
  if not is_char_id(name) then
    set_aside(name)
  elseif not seen[name] then
    seen[name] = true
    char_ids[#char_ids + 1] = name
  end
end

local full, UNPACKED = false, 500 -- unpack gives no more than some thousands at once
for first = 1, #char_ids, UNPACKED do
  full = full or claim({unpack(char_ids, first, math.min(first + UNPACKED - 1, #char_ids))})
end
if full then
  reply[3] = 'full' -- the rest of this page comes next
elseif next_cursor == '0' then
  reply[3] = redis.call('HINCRBY', pass, 'number', 1)
  redis.call('HDEL', pass, 'cursor')
else
  redis.call('HSET', pass, 'cursor', next_cursor)
end
return reply

-- Moves some dirty characters to the claimed ones: one step of a pass over the dirty set, if it is due.
-- All sweeps share the pass. It goes around like the hand of a clock, once in round_ms: what it comes to
-- next has waited longest, nothing waits longer than a round, and the work is spread evenly. If it is
-- late it catches up at once; however long an outage was, no more than one whole round is late.
-- A claimed character stays dirty until that backup is acknowledged, so that sweeps that come
-- faster than saves cannot supersede each other for ever. What is no character id goes to
-- quarantine, so that it cannot block the queue.
-- Uses: at_maxmemory, clock, types, ids, quarantine
-- KEYS: 1 dirty, 2 claimed, 3 since, 4 quarantine, 5 the pass
-- ARGV: 1 lease in µs, 2 most claims in flight, 3 how many to claim, and about how many to look at,
--       4 round_ms, 5 how many ms late a step must be, 6 1 if all that is dirty now is due, 2 if a sweep
--       of all that goes on, which begins anew if its pass is lost, else 0
-- Returns: 1 if it was due and there was room, so that the next step may be, too, else 0; the token of
--          all claims; and the char_ids, separated by a space
-- Errors: WRONGTYPE with the key's number
local dirty, claimed, since, quarantine, pass = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local lease_us, max_in_flight, count = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local round_ms, late_ms, is_whole = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == '1'
local goes_on = ARGV[6] == '2'
local NO_ID = 'not a character id: it must be an integer from 1 to 2^63-1'

local refused = marks_error(1, 'set', 'zset', 'zset', 'hash', 'hash')
if refused then return refused end
local now = now_us()
local at_ms = math.floor(now / 1000)

-- The pass: its number, the place of the hand, when it began, the number of the first pass that is
-- paced, and when the hand came into the slot where it is.
local number, cursor, began_ms, paced_from, entered_ms = 0, '0', nil, 0, nil
local function read_pass()
  local stored =
    redis.call('HMGET', pass, 'number', 'cursor', 'began_ms', 'paced_from', 'entered_ms')
  for i = 1, 5 do
    local text = stored[i] or '0'
    if #text >= 16 or not string.match(text, '^%d+$') then -- not ours: a new pass begins
      return redis.call('DEL', pass)
    end
  end
  number, cursor = tonumber(stored[1] or 0), stored[2] or '0'
  began_ms, paced_from = tonumber(stored[3] or nil), tonumber(stored[4] or 0)
  entered_ms = tonumber(stored[5] or nil)
  if paced_from > number + 2 then paced_from = 0 end -- not ours either: no sweep would end
end

-- Returns the share of the set that is behind a cursor: SSCAN counts in reversed bits, so it is the
-- bits of the cursor, read backwards.
local function share_behind(cursor_text)
  local bits, weight, share = tonumber(cursor_text), 0.5, 0
  while bits > 0 do
    if bits % 2 == 1 then share = share + weight end
    bits, weight = math.floor(bits / 2), weight / 2
  end
  return share
end

-- Says whether a page is due: the hand is to be at its end by now, or has not met its start for a
-- round. The second comes first where a page reaches further than before, since the set has shrunk,
-- and after an outage. The round has 64 slots: 'met 0' is when the start of the first was met.
local SLOT = 1 / 64
local function is_due(first_share, last_share)
  if number < paced_from then return true end
  local until_ms = at_ms - late_ms
  if began_ms + last_share * round_ms <= until_ms then return true end
  local met_ms = redis.call('HGET', pass, 'met ' .. math.floor(first_share / SLOT))
  met_ms = tonumber(met_ms or nil)
  return met_ms and met_ms + (1 + SLOT) * round_ms <= until_ms
end

local function set_aside(name)
  redis.call('SREM', dirty, name)
  redis.call('ZREM', since, name)
  redis.call('HSET', quarantine, name, quarantine_entry(nil, NO_ID, cjson.null))
end

read_pass()
is_whole = is_whole or goes_on and not began_ms
if not began_ms or began_ms > at_ms then -- a new one, or the server's clock went back
  began_ms = at_ms - share_behind(cursor) * round_ms
  redis.call('HSET', pass, 'began_ms', integer(began_ms))
end
if is_whole then -- this pass meets all that is dirty if it begins here, else the next one does
  paced_from = math.max(paced_from, number + (cursor == '0' and 1 or 2))
  redis.call('HSET', pass, 'paced_from', integer(paced_from))
end
local room = math.min(count, max_in_flight - redis.call('ZCARD', claimed))
if room <= 0 then return {0, 0, ''} end
local page = redis.call('SSCAN', dirty, cursor, 'COUNT', count)
local next_cursor, names = page[1], page[2]
local first_share, last_share = share_behind(cursor), 1
if next_cursor ~= '0' then last_share = share_behind(next_cursor) end
if not is_due(first_share, last_share) then return {0, 0, ''} end
local token, claims = integer(now + lease_us), {}

-- Claims characters, as many as there is room for. Returns whether it was too little.
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
      times[2 * #moved - 1], times[2 * #moved] = integer(at_ms), char_id
      claims[#claims + 1] = char_id
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
if full then return {1, token, table.concat(claims, ' ')} end -- the rest of this page comes next
if next_cursor == '0' then number, began_ms = number + 1, at_ms end
if first_share % SLOT == 0 then entered_ms = at_ms end
local fields = {'number', integer(number), 'cursor', next_cursor, 'began_ms', integer(began_ms)}
for slot = math.floor(first_share / SLOT), math.floor(last_share / SLOT) - 1 do -- it leaves these
  fields[#fields + 1], fields[#fields + 2] = 'met ' .. slot, integer(entered_ms or at_ms)
  entered_ms = at_ms
end
fields[#fields + 1], fields[#fields + 2] = 'entered_ms', integer(entered_ms or at_ms)
redis.call('HSET', pass, unpack(fields))
return {1, token, table.concat(claims, ' ')}

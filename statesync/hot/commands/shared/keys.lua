-- Gives the keys that follow the numbered ones, list by list, in the order of the header.
local function keys_after(number)
  return function(count)
    local first = number + 1
    number = number + count
    return {unpack(KEYS, first, number)}
  end
end

-- Gives the keys that follow the numbered ones, list by list, in the order of the header.
local function keys_after(number)
  return function(count)
    local keys = {}
    for i = 1, count do keys[i] = KEYS[number + i] end
    number = number + count
    return keys
  end
end

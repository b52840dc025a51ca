-- Says whether a name is that of a character: an integer from 1 to 2^63-1.
local function is_char_id(name)
  return string.match(name, '^[1-9]%d*$')
    and (#name < 19 or (#name == 19 and name <= '9223372036854775807'))
end

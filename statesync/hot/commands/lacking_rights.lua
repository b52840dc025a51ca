-- Tells which commands the user of the connection may not run. Redis 6.2 cannot tell.
-- KEYS: 1 core, 2 session, 3 dirty, 4 stats; the server has checked that we may use them
-- ARGV: 1 the commands, in msgpack; a subcommand stands after a bar; 2 channel
-- Returns: their names; or nil if it cannot be told
-- Errors: none
local core, session, dirty, stats = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local commands, channel = cmsgpack.unpack(ARGV[1]), ARGV[2]
if not redis.acl_check_cmd then return nil end
local on = {publish = {channel}, subscribe = {channel}, unsubscribe = {channel}}
local keyless = {dbsize = {}, info = {}, ping = {}, scan = {}, select = {'0'}, time = {}}
local lacking = {}
for _, command in ipairs(commands) do
  local name, subcommand = command:match('^(%w+)|?(%w*)$')
  local args = on[name] or keyless[name]
  if subcommand ~= '' then args = {subcommand, ''} end
  if name == 'evalsha' then args = {'', '0'} end
  if not redis.acl_check_cmd(name, unpack(args or {core, stats})) then
    lacking[#lacking + 1] = command
  end
end
return lacking

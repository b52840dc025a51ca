-- Lets a script that saves work at maxmemory. There Redis refuses the first write of a script that may need
-- memory, unless another write came before it: so this one comes first. It changes nothing, but for a time to
-- live, which would take unsaved changes along. EVAL's documentation has it ("Memory usage with
-- maxmemory"); the flag of newer servers, allow-oom, is unknown to Redis 6.2.
redis.call('PERSIST', KEYS[1])


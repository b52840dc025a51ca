"""Every operation on Redis: one function and one Lua script each, side by side. No I/O."""

"""Redis: keys, scripts, and the stores that run them."""

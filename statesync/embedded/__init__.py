"""A real PostgreSQL and a real Valkey from wheels, and the whole of statesync on them."""

"""A real PostgreSQL and a real Valkey from wheels, and a whole statesync on them."""

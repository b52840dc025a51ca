"""What games use: the store, login, and changes that are durable when the call returns."""

"""The forms of characters and sessions, and what is valid in them. No I/O."""

"""The ways between Redis and PostgreSQL: backup, restore, sweep, scrub, delete."""

"""What deploy/ and docker-compose.yml name exists."""

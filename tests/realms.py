"""Owns realms on the database of one test: each in a schema of its own."""

from __future__ import annotations

from dataclasses import replace

from statesync.durable import database, migrate
from statesync.settings import Settings

__all__ = ["in_schemas"]


def in_schemas(settings: Settings, *names: str) -> Settings:
    """Return settings with these realms, whose tables are there."""
    url = f"{settings.database_url}&options=-csearch_path%3D{{realm}}"
    made = replace(settings, realms=",".join(names), database_url=url)
    for one in made.each_realm():
        engine = database.connect(one)
        migrate.upgrade(engine, realm=one.realm)
        engine.dispose()
    return made

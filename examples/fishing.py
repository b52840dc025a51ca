"""A session type of a game's own: a fishing trip, whose catch is in a table of its own.

celery -A statesync worker --include examples.fishing
"""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, text

from statesync import Session, SessionOrchestrator, register

TABLE = """CREATE TABLE fishing_catch (session_id uuid REFERENCES sessions (id) ON DELETE CASCADE,
    place int, fish text, grams int, PRIMARY KEY (session_id, place))"""
CLEAR = text("DELETE FROM fishing_catch WHERE session_id = :id")
WRITE = text("INSERT INTO fishing_catch VALUES (:id, :place, :fish, :grams)")
READ = text("""SELECT session_id, json_agg(json_build_object('fish', fish, 'grams', grams)
    ORDER BY place) FROM fishing_catch WHERE session_id = ANY(:ids) GROUP BY session_id""")


@register
class FishingTrip(SessionOrchestrator):
    session_type = "fishing"
    states = ("fishing",)
    json_fields = ("catch",)  # a list of {"fish", "grams"}; further fields are text

    def save(self, connection: Connection, snapshots: Sequence[Session]) -> None:
        for trip in snapshots:
            catch = trip.fields.get("catch", [])
            connection.execute(CLEAR, {"id": trip.id})
            for place, fish in enumerate(catch):
                connection.execute(WRITE, {"id": trip.id, "place": place, **fish})

    def load(self, connection: Connection, char_ids: Sequence[int]) -> dict[int, Session]:
        trips = self.open_sessions(connection, char_ids)  # with what is in sessions.payload
        rows = connection.execute(READ, {"ids": [trip.id for trip in trips.values()]}).all()
        caught = {trip_id: {"catch": catch} for trip_id, catch in rows}
        return {i: replace(t, fields=t.fields | caught.get(t.id, {})) for i, t in trips.items()}

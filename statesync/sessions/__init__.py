"""Session types: what one provides, and our own three."""

from statesync.sessions.base import SessionOrchestrator, SessionReport
from statesync.sessions.combat import CombatOrchestrator
from statesync.sessions.inventory import InventoryOrchestrator
from statesync.sessions.scenario import ScenarioOrchestrator
from statesync.state.session_types import register

__all__ = [
    "CombatOrchestrator",
    "InventoryOrchestrator",
    "ScenarioOrchestrator",
    "SessionOrchestrator",
    "SessionReport",
    "register",
]

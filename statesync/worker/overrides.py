"""Owns the file in which an operator replaces settings of Celery; a foreign one is never run."""

from __future__ import annotations

import codecs
import difflib
import runpy
import traceback
from pathlib import Path
from types import ModuleType

from celery.app.defaults import SETTING_KEYS

from statesync.errors import SettingsError
from statesync.settings import PREFIX, Settings
from statesync.worker.config import CelerySettings

__all__ = ["FILE_NAME", "FIRST_LINE", "read_overrides"]

FILE_NAME = "celeryconfig.py"
FIRST_LINE = "# statesync:"
"""How the first line starts of a file that statesync may run unasked."""

_VARIABLE = f"{PREFIX}CELERYCONFIG"
_KNOWN = SETTING_KEYS | {
    # Celery reads these as well, but does not list them.
    "dynamodb_endpoint_url",
    "firestore_project",
    "gcs_threadpool_maxsize",
    "redis_backend_credential_provider",
    "redis_backend_health_check_interval",
    "redis_client_name",
    "result_backend_thread_safe",
}


def read_overrides(settings: Settings) -> CelerySettings:
    """Return the lower-case module-level names of the file, or nothing if there is no file.

    The file is the one that ``STATESYNC_CELERYCONFIG`` names, or else a ``celeryconfig.py`` in the
    working directory if its first line says that it is ours. Raises SettingsError, if the named
    file is missing, if the file fails, or if Celery has no such setting.
    """
    path = _find(settings)
    return _checked(path, _run(path)) if path else {}


def _find(settings: Settings) -> Path | None:
    if settings.celeryconfig:
        named = Path(settings.celeryconfig)
        if not named.is_file():
            raise SettingsError(f"{_VARIABLE}: there is no file {named}")
        return named
    local = Path.cwd() / FILE_NAME
    return local if _is_ours(local) else None


def _is_ours(path: Path) -> bool:
    try:
        if not path.is_file():  # to open a pipe would wait for its writer
            return False
        with path.open("rb") as file:
            start = file.read(len(codecs.BOM_UTF8) + len(FIRST_LINE))
    except OSError:
        return False
    return start.removeprefix(codecs.BOM_UTF8).startswith(FIRST_LINE.encode())


def _run(path: Path) -> CelerySettings:
    try:
        return runpy.run_path(str(path))
    except (Exception, SystemExit) as error:
        line = _line(path, error)
        reason = traceback.format_exception_only(error)[-1].strip().partition("\n")[0]
        raise SettingsError(f"{path}{f', line {line}' if line else ''}: {reason}") from None


def _line(path: Path, error: BaseException) -> int | None:
    """Return the line of the file at which it failed."""
    if isinstance(error, SyntaxError):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)


def _checked(path: Path, names: CelerySettings) -> CelerySettings:
    """Return the settings among the names of a module: Celery ignores one that it does not know."""
    overrides = {}
    for name, value in names.items():
        if name in _KNOWN:
            overrides[name] = value
        elif _looks_like_a_setting(name, value):
            closest = difflib.get_close_matches(name.lower(), _KNOWN, n=1, cutoff=0)[0]
            raise SettingsError(f"{path}: Celery has no setting {name}; the closest is {closest}")
    return overrides


def _looks_like_a_setting(name: str, value: object) -> bool:
    """Whether a name is neither private, nor a constant, an import or a function."""
    if name.lower() in _KNOWN:
        return True  # BROKER_URL: it would be ignored
    return (
        name.islower()
        and not name.startswith("_")
        and not isinstance(value, ModuleType)
        and not callable(value)
    )

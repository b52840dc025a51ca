"""The error tree is what its docstring draws, and every error survives a JSON result backend."""

from __future__ import annotations

import json
import re

import pytest

from statesync import errors

EXAMPLES: dict[type[errors.StatesyncError], tuple[object, ...]] = {
    errors.InvalidField: ("bio.name", "must be a string"),
    errors.CharacterNotRestored: (7, "why"),
    errors.CharacterNotMoved: (7, "why"),
    errors.CharacterMoved: (7, "us"),
    errors.CorruptState: (7, "stats.luck", "must be an integer"),
    errors.CharacterNotLoaded: (7, "eu"),
    errors.CharacterExists: (7,),
    errors.CharacterNotSaved: (7, "why"),
    errors.UnknownSessionType: ("raid:session:x",),
    errors.LeaseLost: (7,),
    errors.PreconditionFailed: ("character 7", "gold", "100", None),
    errors.GroupTooLarge: ([7, 8],),
    errors.NotDurable: ([7], "why"),
}


def drawn() -> dict[str, str | None]:
    """Return the tree of the docstring: name to its parent's name."""
    tree: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.fullmatch(r"    ((?:[│ ]   )*(?:[├└]── )?)(\w+)(?:  .*)?", line)
        if not found:
            continue
        depth = len(found[1]) // 4
        del path[depth:]
        tree[found[2]] = path[-1] if path else None
        path.append(found[2])
    return tree


def public_parent(error_class: type) -> str | None:
    """Return the nearest public ancestor among our errors."""
    for ancestor in error_class.__mro__[1:]:
        if ancestor.__name__ in errors.__all__:
            return ancestor.__name__
    return None


def test_docstring_draws_the_real_tree() -> None:
    real = {name: public_parent(getattr(errors, name)) for name in errors.__all__}
    assert drawn() == real


@pytest.mark.parametrize("name", errors.__all__)
def test_error_survives_json(name: str) -> None:
    error_class = getattr(errors, name)
    error = error_class(*EXAMPLES.get(error_class, ("what happened",)))
    again = error_class(*json.loads(json.dumps(error.args)))
    assert str(again) == str(error)
    assert again.args == error.args
    assert vars(again) == vars(error)


def test_invalid_input_is_a_value_error() -> None:
    assert issubclass(errors.InvalidCharId, ValueError)

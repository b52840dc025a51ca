"""Every mutation fits the code as it is. ``python -m tests.mutations`` tells what notices it."""

from __future__ import annotations

from tests.mutations.runner import ROOT, BrokenMutation, load_mutations


def test_every_mutation_fits_the_code() -> None:
    mutations = load_mutations()
    names = [mutation.name for mutation in mutations]
    assert len(set(names)) == len(names)
    problems = []
    for mutation in mutations:
        try:
            mutation.mutated((ROOT / "statesync" / mutation.file).read_text())
        except (BrokenMutation, OSError) as error:
            problems.append(str(error))
    assert problems == []


def test_the_tests_of_every_mutation_exist() -> None:
    named = {test for mutation in load_mutations() for test in mutation.tests}
    files = {test.partition("::")[0] for test in named}
    sources = {name: (ROOT / "tests" / name).read_text() for name in files}
    assert [test for test in named if not _is_in(sources, test)] == []


def _is_in(sources: dict[str, str], test: str) -> bool:
    file, _, function = test.partition("::")
    return f"def {function}(" in sources[file]

"""``python -m tests.mutations``: try each mutation and print which of them no test notices."""

from __future__ import annotations

import argparse
import sys
import time

from tests.mutations.runner import BrokenMutation, Result, load_mutations, run


def main() -> int:
    """Return the exit status: 0 if every mutation is noticed, 1 if not, 2 if nothing could run."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("--only", metavar="NAME", help="those with NAME in their name or file")
    parser.add_argument("--jobs", metavar="N", type=int, default=1, help="how many at once")
    args = parser.parse_args()
    mutations = [m for m in load_mutations() if (args.only or "") in f"{m.name} {m.file}"]
    if not mutations or args.jobs < 1:
        parser.error("there is no such mutation" if args.jobs > 0 else "--jobs must be at least 1")
    started, failed = time.monotonic(), []
    try:
        for number, result in enumerate(run(mutations, args.jobs), 1):
            seconds = time.monotonic() - started
            print(f"{number}/{len(mutations)} {seconds:4.0f} s  {describe(result)}", flush=True)
            if not result.noticed_by:
                failed.append(result)
    except BrokenMutation as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(mutations) - len(failed)} noticed, {len(failed)} not")
    for result in failed:
        print(f"  {describe(result)}")
    return 1 if failed else 0


def describe(result: Result) -> str:
    """Return one line on a result."""
    mutation = result.mutation
    if result.broken:
        return f"BROKEN    {result.broken}"
    if not result.noticed_by:
        return f"SURVIVED  {mutation.name} ({mutation.file}): {mutation.lost}"
    return f"noticed   {mutation.name}, by {result.noticed_by}"


if __name__ == "__main__":
    sys.exit(main())

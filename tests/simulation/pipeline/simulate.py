"""
The command behind `make sim`: lives many histories of the pipeline, or shows one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

from history import Outcome, live_in_scratch, live_seed, make_plan, quiet_logs, tell_failure

FAILURES_MAX = 5
CHUNK = 10


def _live(seed: int) -> tuple[int, str, int, float]:
    outcome = live_seed(seed)
    return seed, outcome.violation, outcome.shed_count, outcome.seconds


def live_many(seeds: range, workers: int) -> Iterator[tuple[int, str, int, float]]:
    """
    Live the histories of these seeds; gives of each its seed, its violation, how many shapes were given up, and its length.
    """
    with multiprocessing.get_context("spawn").Pool(workers, quiet_logs) as pool:
        yield from pool.imap_unordered(_live, seeds, CHUNK)


def show(seed: int) -> Outcome:
    """
    Live one history and print it.
    """
    plan = make_plan(seed)
    outcome = live_in_scratch(plan)
    print(plan.tell())
    print("\n".join(outcome.trace))
    if outcome.violation:
        print(tell_failure(plan))
    else:
        print(f"nothing was broken in {outcome.seconds:.1f} s of virtual time")
    return outcome


def main() -> int:
    """
    Do what the arguments say; answers the exit status.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="live this one history and print it")
    parser.add_argument("--count", type=int, default=5000, help="how many histories")
    parser.add_argument("--from", dest="first", type=int, default=100_000, help="the first seed")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    quiet_logs()
    if args.seed is not None:
        return 1 if show(args.seed).violation else 0
    began = time.monotonic()
    failed: list[int] = []
    totals: Counter[str] = Counter()
    for seed, violation, shed_count, seconds in live_many(range(args.first, args.first + args.count), args.workers):
        totals["histories"] += 1
        totals["shapes given up"] += shed_count
        totals["virtual seconds"] += round(seconds)
        if violation:
            failed.append(seed)
            print(f"seed {seed}: {violation}", flush=True)
    took_s = time.monotonic() - began
    print(", ".join(f"{value} {name}" for name, value in totals.items()), f"in {took_s:.0f} s")
    for seed in sorted(failed)[:FAILURES_MAX]:
        print(tell_failure(make_plan(seed)))
    print(f"{len(failed)} broke a promise")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

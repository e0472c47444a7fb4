"""
The command behind `make sim`: lives many histories of the pipeline, or shows one.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter

import click

from pipeline_history import Outcome, live_in_scratch, live_many, make_plan, quiet_logs, tell_failure

FAILURES_MAX = 5


def show(seed: int) -> Outcome:
    """
    Live one history and print it.
    """
    plan = make_plan(seed)
    outcome = live_in_scratch(plan)
    click.echo(plan.tell())
    click.echo("\n".join(outcome.trace))
    if outcome.violation:
        click.echo(tell_failure(plan))
    else:
        click.echo(f"nothing was broken in {outcome.seconds:.1f} s of virtual time")
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
            click.echo(f"seed {seed}: {violation}")
    took_s = time.monotonic() - began
    click.echo(f"{', '.join(f'{value} {name}' for name, value in totals.items())} in {took_s:.0f} s")
    for seed in sorted(failed)[:FAILURES_MAX]:
        click.echo(tell_failure(make_plan(seed)))
    click.echo(f"{len(failed)} broke a promise")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

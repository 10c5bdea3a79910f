"""`python -m bench [--quick] [--full] [--write] …`: see bench/README.md."""

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import uvloop
from msgspec import structs

from bench import features, key_limits, other_gateways
from bench.flame import measure_profiles
from bench.load import BenchError
from bench.measures import FULL, LESS, QUICK, STEPS, Plan
from bench.page import write_page
from bench.pair import TITLE, checked_out, pair_with, write_pair
from bench.report import write_tables
from bench.results import Results, collect, describe_code, load_results
from bench.scaling import measure_scaling
from bench.scenario import Run, Table
from bench.subjects import DIRECT, NGINX, NGINX_KEEPING, PROXY, Subject, nginx_is_here, speaking
from bench.wires import CHAT, OTHERS

_BEGUN = time.monotonic()
LAST = other_gateways.PLACE.parent / "bench" / "last.json"
"""File in which every run leaves its values."""


def main() -> int:
    """Measure, print the tables, keep the values; 1 where a reply was wrong or a process failed."""
    chosen = _read_options()
    if chosen.page:
        write_page(load_results(chosen.page))
        return 0
    if chosen.pair:
        return _measure_pair(chosen)
    tables, missing = _plan_tables(chosen)
    for line in missing:
        print(line, file=sys.stderr)
    before = load_results(chosen.json) if chosen.resume and chosen.json.exists() else None
    if before is not None and before.code != describe_code():
        print(f"✕ {chosen.json.name} is of other code; measure anew, without --resume.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        try:
            results = uvloop.run(_measure(tables, missing, chosen, Path(directory), before))
        except BenchError as error:
            print(f"✕ {error}\nWhat was measured is kept; --resume goes on from there.", file=sys.stderr)
            return 1
    print(write_tables(results))
    print(f"\n{results.replies:,} replies, each checked in full. Medians of the rounds, ± half the range.")
    if chosen.write:
        write_page(results)
    return 0


async def _measure(
    tables: list[Table], missing: list[str], chosen: argparse.Namespace, directory: Path, before: Results | None
) -> Results:
    """Take the missing measurements. Keep the values after each round, in case the run breaks off."""
    versions = {subject.name: other_gateways.find_version(place) for place, subject in other_gateways.PEERS.items()}
    wanted = {table.title: table.plan.rounds for table in tables}
    done = [sheet for sheet in before.sheets if sheet.rounds == wanted.get(sheet.title)] if before else []
    titles = {sheet.title for sheet in done}

    def keep(run: Run) -> Results:
        results = collect(run, missing, versions)
        if before:
            results.add(before, done)
        results.save(chosen.json)
        return results

    run = Run([table for table in tables if table.title not in titles], directory, _print_progress, keep)
    await run.measure()
    results = keep(run)
    keep_all = partial(results.save, chosen.json)
    if chosen.full or chosen.scaling:
        await measure_scaling(results, directory, _print_progress, quick=chosen.quick, keep=keep_all)
    if chosen.full or chosen.profile:
        await measure_profiles(results, _print_progress, seconds=3.0 if chosen.quick else 15.0, keep=keep_all)
    return results


def _measure_pair(chosen: argparse.Namespace) -> int:
    """Measure older commits beside the code as it is; print all values and the ratios to each commit."""
    plan = structs.replace(QUICK if chosen.quick else FULL, **({"rounds": chosen.rounds} if chosen.rounds else {}))
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        try:
            with ExitStack() as stack:
                places = {commit: stack.enter_context(checked_out(commit, Path(directory))) for commit in chosen.pair}
                table = Table(title=TITLE, subjects=pair_with(places), plan=plan, steps=tuple(STEPS))
                run = Run([table], Path(directory), _print_progress, lambda run: None)
                uvloop.run(run.measure())
        except BenchError as error:
            print(f"✕ {error}", file=sys.stderr)
            return 1
    results = collect(run, [], {})
    results.save(chosen.json.with_name("pair.json"))
    print("\n\n".join(write_pair(results.sheets[0], commit) for commit in chosen.pair))
    return 0


def _print_progress(line: str) -> None:
    print(f"{(time.monotonic() - _BEGUN) / 60:5.1f} min  {line}", file=sys.stderr, flush=True)


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="What the proxy costs beside a direct call and a relay.")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: less than a minute")
    parser.add_argument("--full", action="store_true", help="all of the next six")
    parser.add_argument("--peers", action="store_true", help="measure other translators too (scripts/ci.py peers)")
    parser.add_argument("--wires", action="store_true", help="measure the other languages of providers too")
    parser.add_argument("--features", action="store_true", help="measure what optional features cost")
    parser.add_argument("--limits", action="store_true", help="measure what keys, budgets and Redis cost")
    parser.add_argument("--scaling", action="store_true", help="measure workers, body sizes, lengths, open streams")
    parser.add_argument("--profile", action="store_true", help="sample where the proxy's time goes (Linux)")
    parser.add_argument(
        "--pair", action="append", metavar="COMMIT", help="measure that commit too, and nobody else; may be repeated"
    )
    parser.add_argument("--rounds", type=int, help="rounds of every measure")
    parser.add_argument("--without", action="append", default=[], metavar="NAME", help="leave somebody out")
    parser.add_argument("--json", type=Path, default=LAST, metavar="FILE", help=f"keep all values there ({LAST.name})")
    parser.add_argument("--resume", action="store_true", help="keep what a run that broke off has measured in full")
    parser.add_argument("--write", action="store_true", help="write tables and plots of the performance page")
    parser.add_argument("--page", type=Path, metavar="FILE", help="only write them, from the values of that run")
    chosen = parser.parse_args()
    if chosen.write and not chosen.full:
        parser.error("--write needs --full: the page shows one run")
    return chosen


def _plan_tables(chosen: argparse.Namespace) -> tuple[list[Table], list[str]]:
    plan, less = (QUICK, QUICK) if chosen.quick else (FULL, LESS)
    if chosen.rounds:
        plan, less = (structs.replace(one, rounds=chosen.rounds) for one in (plan, less))
    everybody, missing = _find_subjects(chosen)
    tables = [Table(title=CHAT.name, subjects=_without(chosen, everybody), plan=plan)]
    if chosen.full or chosen.wires:
        tables += [_table_of(chosen, wire.name, speaking(wire), less) for wire in OTHERS]
    if chosen.full or chosen.features:
        tables.append(
            Table(title=features.TITLE, subjects=[features.BASE, *features.FEATURES], plan=less, steps=features.STEPS)
        )
    if chosen.full or chosen.limits:
        tables.append(Table(title=key_limits.TITLE, subjects=key_limits.SUBJECTS, plan=less, steps=key_limits.STEPS))
    return tables, missing


def _table_of(chosen: argparse.Namespace, title: str, subjects: tuple[Subject, ...], plan: Plan) -> Table:
    return Table(title=title, subjects=_without(chosen, list(subjects)), plan=plan)


def _find_subjects(chosen: argparse.Namespace) -> tuple[list[Subject], list[str]]:
    found, missing = [DIRECT, NGINX, PROXY], []
    if chosen.full or chosen.peers:
        others, missing = other_gateways.find_other_gateways()
        found = [DIRECT, NGINX, NGINX_KEEPING, PROXY, *others]
    if not nginx_is_here():
        missing = ["nginx is not installed, so the floor (a plain relay) is not measured.", *missing]
    return found, missing


def _without(chosen: argparse.Namespace, subjects: list[Subject]) -> list[Subject]:
    left_out = {*chosen.without, *(() if nginx_is_here() else (NGINX.name, NGINX_KEEPING.name))}
    return [subject for subject in subjects if subject.name not in left_out]


if __name__ == "__main__":
    sys.exit(main())

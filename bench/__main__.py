"""`python -m bench [--quick] [--wires] [--rounds N] [--json FILE] [--without nginx]`."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import msgspec
import uvloop

from bench.load import BenchError
from bench.report import collect, write_table
from bench.scenario import FULL, QUICK, Run
from bench.subjects import find_subjects
from bench.wires import WIRES


def main() -> int:
    """Measure, print the table, write the JSON; 1 where a reply was wrong or a process failed."""
    parser = argparse.ArgumentParser(prog="bench", description="What the proxy costs beside a direct call and a relay.")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: less than a minute")
    parser.add_argument("--wires", action="store_true", help="measure the other languages of providers too")
    parser.add_argument("--rounds", type=int, help="rounds of every measure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values there too")
    parser.add_argument("--without", action="append", default=[], metavar="NAME", help="leave somebody out: nginx")
    chosen = parser.parse_args()
    plan = QUICK if chosen.quick else FULL
    if chosen.rounds:
        plan = msgspec.structs.replace(plan, rounds=chosen.rounds)
    subjects, missing = find_subjects()
    subjects = [subject for subject in subjects if subject.name not in chosen.without]
    for line in missing:
        print(line, file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        run = Run(plan, subjects, Path(directory), WIRES if chosen.wires else ())
        try:
            uvloop.run(run.measure(lambda line: print(line, file=sys.stderr)))
        except BenchError as error:
            print(f"✕ {error}", file=sys.stderr)
            return 1
    print(write_table(run, subjects))
    print(f"\n{run.replies:,} replies, each checked in full. Medians of {plan.rounds} rounds, ± half the range.")
    if chosen.json:
        chosen.json.write_text(json.dumps(collect(run, subjects, plan, missing), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

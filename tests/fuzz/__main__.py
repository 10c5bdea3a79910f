"""`python -m tests.fuzz [target|all] [bytes] [seed]`: feeds so many bytes to each target and prints the result."""

import subprocess
import sys

from tests.fuzz.campaign import DEFAULT_BYTES, Figures, read_figures


def main(arguments: list[str]) -> int:
    from tests.fuzz.targets import TARGETS

    name, amount, seed = (*arguments, *("all", str(DEFAULT_BYTES), "1")[len(arguments) :])
    if name != "all" and name not in TARGETS:
        print(f"There is no target {name!r}; there are: all, {', '.join(TARGETS)}.", file=sys.stderr)
        return 2
    print(f"seed {seed}, {int(amount):,} bytes a target")
    failed = False
    for target in TARGETS if name == "all" else [name]:
        command = [sys.executable, "-m", "tests.fuzz.campaign", target, amount, seed]
        run = subprocess.run(command, capture_output=True, check=False)
        figures = read_figures(run.stdout, run.stderr)
        print(f"{target:16} {figures}", flush=True)
        if run.returncode != 0:
            failed = True
            print(
                (run.stdout if isinstance(figures, Figures) else run.stdout + run.stderr[-4000:]).decode(
                    "utf-8", "replace"
                )
            )
    return int(failed)


sys.exit(main(sys.argv[1:]))

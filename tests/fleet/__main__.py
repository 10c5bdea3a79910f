"""`python -m tests.fleet`: a scenario with its options.

`outages [seconds] [instances] [seed]`, `limits [seconds] [outage]`, `bills [requests] [seed] [redis|postgres]`,
`upgrade [seconds] [commit]`, `people [commit]`, `company PYTHON [word ...]`. With `postgres`, the instances share no
Redis.
"""

import logging
import sys

from bench.load import BenchError
from tests.fleet.bills import Bills
from tests.fleet.company import Company
from tests.fleet.limits import Limits
from tests.fleet.outages import Outages
from tests.fleet.people import People
from tests.fleet.upgrade import Upgrade
from tests.support.debian_packages import find_program, install_package
from tests.support.postgres import find_programs

SCENARIOS = ("outages", "limits", "bills", "upgrade", "people", "company")


def main(name: str = "outages", *options: str) -> int:
    """Run a scenario; print its problems. Return the exit status."""
    if name not in SCENARIOS:
        sys.exit(f"There is no scenario {name!r}. The scenarios are: {', '.join(SCENARIOS)}")
    if find_programs() is None:
        install_package("postgresql")
    for program, package in (("redis-server", "redis-server"), ("nginx", "nginx-light")):
        if find_program(program) is None:
            install_package(package)
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # it logs each client that disconnects
    scenario: Outages | Limits | Bills | Upgrade | People | Company
    if name == "limits":
        seconds, outage_seconds = (*options, *("70", "5")[len(options) :])
        scenario = Limits(float(seconds), float(outage_seconds))
    elif name == "bills":
        requests, seed, store = (*options, *("2000", "1", "redis")[len(options) :])
        scenario = Bills(int(requests), int(seed), has_redis=store != "postgres")
    elif name == "upgrade":
        seconds, revision = (*options, *("30", "")[len(options) :])
        scenario = Upgrade(float(seconds), revision)
    elif name == "people":
        scenario = People(*(options or [""]))
    elif name == "company":
        if not options:
            sys.exit(
                "The interpreter of the environment of locks/company.lock is missing:  python3 scripts/ci.py company"
            )
        scenario = Company(options[0], options[1:])
    else:
        seconds, instances, seed = (*options, *("60", "4", "1")[len(options) :])
        scenario = Outages(float(seconds), int(instances), int(seed))
    try:
        scenario.run()
    except BenchError as error:
        sys.exit(f"error: {error}")
    for problem in scenario.problems[:40]:
        print(f"✕ {problem}")
    count = len(scenario.problems)
    print(f"{count} problems." if count else "Everything is as expected.")
    return int(bool(count))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

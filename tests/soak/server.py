"""The server as `anthropic-proxy serve` runs it, with one addition: at SIGUSR1 it writes down how many tasks it has."""

import asyncio
import json
import os
import signal
import sys
from typing import Any

from anthropic_proxy.cli import main

COUNTS_FILE = "SOAK_COUNTS"
"""Variable with the path of the file that the counts are written to."""


def _write_counts(*_: Any) -> None:
    names = sorted(task.get_name() for task in asyncio.all_tasks())
    place = os.environ[COUNTS_FILE]
    with open(place + ".new", "w", encoding="utf-8") as file:
        json.dump({"tasks": len(names), "names": names}, file)
    os.replace(place + ".new", place)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _write_counts)
    sys.argv = ["anthropic-proxy", "serve", *sys.argv[1:]]
    main()

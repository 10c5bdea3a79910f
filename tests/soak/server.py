"""The server as `anthropic-proxy serve` runs it, which also writes its tasks and threads to a file at SIGUSR1."""

import asyncio
import json
import os
import signal
import sys
import threading
from typing import Any

from anthropic_proxy.cli import main

COUNTS_FILE = "SOAK_COUNTS"
"""Variable with the path of the file that the names are written to."""


def _write_names(*_: Any) -> None:
    names = sorted(task.get_name() for task in asyncio.all_tasks())
    place = os.environ[COUNTS_FILE]
    with open(place + ".new", "w", encoding="utf-8") as file:
        json.dump({"tasks": names, "threads": sorted(thread.name for thread in threading.enumerate())}, file)
    os.replace(place + ".new", place)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _write_names)
    sys.argv = ["anthropic-proxy", "serve", *sys.argv[1:]]
    main()

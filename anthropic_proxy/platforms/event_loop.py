"""Event loop of the server process: uvloop where it is installed, else the loop of asyncio.

uvloop does not exist for Windows. The loop of asyncio on Windows (`ProactorEventLoop`) has no `add_reader` and no
`add_signal_handler`, so no code of this project calls these methods outside `platforms/`.
"""

import asyncio
import sys
from contextlib import suppress


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop for the server process."""
    if sys.platform != "win32":
        with suppress(ImportError):
            import uvloop  # noqa: PLC0415

            return uvloop.new_event_loop()
    return asyncio.new_event_loop()

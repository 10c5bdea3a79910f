"""Event loop of the server process: uvloop where it is installed, else the loop of asyncio.

The loop on Windows has no `add_reader` and no `add_signal_handler`, so only code in `platforms/` calls these methods.
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

"""Event loop of the server process: uvloop if it is installed, otherwise the loop of asyncio.

`new_event_loop` returns the loop. On Windows, the loop lacks the methods `add_reader` and `add_signal_handler`, so only
code in `platforms/` calls these two.
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

"""What a server under test begins with: of the event loop's own reports on slow callbacks only those that matter stay.

Python imports this module by its name where its folder stands on the path; `tests.process` puts it there.
"""

import logging

BLOCKED_SECONDS = 0.5
"""A callback that takes longer has blocked; a shorter one may have waited for a busy machine."""


def _matters(record: logging.LogRecord) -> bool:
    if not record.msg.startswith("Executing ") or not isinstance(record.args, tuple):
        return True
    # other threads have event loops of their own, and start-up has no clients yet: what blocks there blocks nobody
    blocks = record.threadName == "MainThread" and "LifespanOn" not in record.getMessage()
    return blocks and float(record.args[-1]) >= BLOCKED_SECONDS  # type: ignore[arg-type]


logging.getLogger("asyncio").addFilter(_matters)

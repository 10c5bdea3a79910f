"""A server process whose clock is wrong, while its monotonic clock runs as usual."""

import os
from pathlib import Path

from tests.support.paths import ROOT

_CUSTOMIZE = """\
import runpy
import time

_time = time.time
time.time = lambda: _time() + {seconds}
runpy.run_path({monitor!r})
"""
_MONITOR = Path(__file__).with_name("event_loop_monitor") / "sitecustomize.py"


def set_clock(folder: Path, seconds: float) -> dict[str, str]:
    """Return settings for `running_proxy` with which the clock of the process is ahead. `folder`: it must exist."""
    (folder / "sitecustomize.py").write_text(_CUSTOMIZE.format(seconds=seconds, monitor=str(_MONITOR)), "utf-8")
    return {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}

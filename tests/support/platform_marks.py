"""Skips of tests that need an ability of the system. The plugin `hidden_posix` hides it on a POSIX system too."""

import signal
import sys
from importlib import import_module

import pytest


def is_missing(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:
        return True
    return False


HIDDEN_POSIX = sys.platform != "win32" and is_missing("resource")
"""True with the plugin `hidden_posix`: there are no libraries of Windows either."""
KILL = 9
"""Number of the signal that ends a process at once; Windows has no name for it."""
NO_SIGHUP = "platform: no SIGHUP"
HAS_SIGHUP = hasattr(signal, "SIGHUP")
needs_job_control = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="platform: no SIGSTOP")
needs_timer_signal = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="platform: no SIGALRM")
needs_process_limits = pytest.mark.skipif(is_missing("resource"), reason="platform: no process limits (resource)")
needs_uvloop = pytest.mark.skipif(is_missing("uvloop"), reason="platform: no uvloop")
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="platform: the test reads /proc")

"""Child processes of commands, the search for programs, and the resources of this process.

A child that Ctrl+C must not stop, such as a server, is started with `background_popen_options`. Its standard input can
be a pipe from its parent. The pipe ends when the parent calls `end_process` or has ended in any other way, and
`stop_process_when_stdin_ends` then stops the child.
"""

import ctypes
import ntpath
import os
import posixpath
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

if sys.platform != "win32":
    import resource

_EXIT_BY_SIGNAL = 128
"""Number that shells add to the number of a signal: the exit status of a program that the signal has ended."""

_PROGRAM = (
    "import sys; folder = sys.argv.pop(1); sys.path.insert(0, folder); import anthropic_proxy; "
    "sys.path.remove(folder); sys.path.append(folder); "
    "import runpy; runpy.run_module('anthropic_proxy', run_name='__main__', alter_sys=True)"
)
"""Program that runs the package like `python -m anthropic_proxy`. Its first argument is the folder with the package.

This folder is the first in the search only for the package itself, of which another copy may be installed.
"""


def proxy_command(*words: str) -> list[str]:
    """The new process imports no modules from the current directory, which may belong to other users."""
    # `-m` searches the current directory first; `-P` omits it, so the folder of a checkout is appended
    return [sys.executable, "-P", "-c", _PROGRAM, str(Path(__file__).parents[3]), *words]


def background_popen_options() -> dict[str, Any]:
    """Ctrl+C in the terminal does not stop the child."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def exit_handles(process: "BaseProcess") -> list[int]:
    """Ready for a selector when `process` has ended. Windows: none; callers poll there."""
    # the handle of a process on Windows is no socket, and only sockets can be selected
    return [] if sys.platform == "win32" else [process.sentinel]


def end_process(process: subprocess.Popen[Any], kill_after_seconds: float) -> None:
    """End a child process by closing its standard input, or kill it if it has no pipe. Wait until it has ended."""
    if process.stdin is None:
        process.kill()
    else:
        with suppress(OSError):
            process.stdin.close()
    try:
        process.wait(kill_after_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def stop_process_when_stdin_ends() -> None:
    """Start a thread that stops this process (SIGTERM) when its standard input ends. If standard input is a pipe from
    the parent process, this process thus stops when the parent ends.
    """

    def wait() -> None:
        while os.read(0, 4096):
            pass
        if sys.platform == "win32":  # `os.kill` would end the process without its handlers
            signal.raise_signal(signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="end-of-input", daemon=True).start()


def run_in_foreground(command: Sequence[str], environment: dict[str, str]) -> int:
    """Return the exit status. Raises `OSError` if the program cannot be started."""
    with subprocess.Popen(command, env=environment) as process:

        def forward(number: int, frame: FrameType | None) -> None:
            process.send_signal(number)

        def ignore(number: int, frame: FrameType | None) -> None:  # the terminal sends it to both processes
            return

        handlers = {signal.SIGINT: ignore, signal.SIGTERM: forward}
        if sys.platform == "win32":
            handlers[signal.SIGBREAK] = ignore
        else:
            handlers[signal.SIGHUP] = forward
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            status = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return status if status >= 0 else _EXIT_BY_SIGNAL - status


def find_program(name: str, environ: Mapping[str, str]) -> str | None:
    """A name with a folder is a path, relative to the current directory."""
    return next((path for path in list_program_paths(name, environ, sys.platform) if _is_program(path)), None)


def list_absolute_folders(path: str) -> str:
    is_windows = sys.platform == "win32"
    return os.pathsep.join(folder for folder in path.split(os.pathsep) if _is_absolute(folder, is_windows=is_windows))


def describe_missing_program(name: str, environ: Mapping[str, str]) -> str:
    """Return why `find_program` does not find a program that a shell finds in PATH. "": a shell finds none either."""
    for folder, path in _list_candidates(name, environ, sys.platform):
        if not _is_absolute(folder, is_windows=sys.platform == "win32") and _is_program(path):
            return (
                f'it is only in "{folder or "."}". Relative folders of PATH are not searched, because the current '
                "directory would decide. Use the absolute path of this folder"
            )
    return ""


def list_program_paths(name: str, environ: Mapping[str, str], platform: str) -> Iterator[str]:
    """`platform`: a value of `sys.platform`."""
    paths = ntpath if platform == "win32" else posixpath
    for folder, path in _list_candidates(name, environ, platform):
        if paths.dirname(name) or _is_absolute(folder, is_windows=platform == "win32"):
            yield path


def _list_candidates(name: str, environ: Mapping[str, str], platform: str) -> Iterator[tuple[str, str]]:
    """Yield each folder of PATH, also a relative one, with each path in it that can be the program `name`."""
    is_windows = platform == "win32"
    paths = ntpath if is_windows else posixpath
    endings = [""]
    if is_windows:
        known = [ending for ending in environ.get("PATHEXT", ".COM;.EXE;.BAT;.CMD").split(";") if ending]
        if not name.lower().endswith(tuple(map(str.lower, known))):
            endings = known
    folders = [""]
    if name in ("", ".", ".."):
        folders = []
    elif not paths.dirname(name):
        given = environ.get("PATH", "" if is_windows else posixpath.defpath)
        folders = [folder.strip('"') if is_windows else folder for folder in given.split(paths.pathsep)]
    for folder in folders:
        for ending in endings:
            yield folder, paths.join(folder, name + ending)


def windows_system_program(name: str, environ: Mapping[str, str]) -> str:
    given = environ.get("SYSTEMROOT") or environ.get("SystemRoot") or ""  # its spelling in a copy
    root = given if _is_absolute(given, is_windows=True) else r"C:\Windows"
    return ntpath.join(root, "System32", name)


def _is_absolute(folder: str, *, is_windows: bool) -> bool:
    if not is_windows:
        return posixpath.isabs(folder)
    drive, rest = ntpath.splitdrive(folder)
    # `\bin` begins at the drive of the current directory, `C:bin` at the current directory of the drive
    return drive.startswith("\\\\") or (bool(drive) and rest.startswith(("\\", "/")))


def _is_program(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode) and os.access(path, os.X_OK)
    except (OSError, ValueError):
        return False


class ProcessStats(NamedTuple):
    resident_bytes: int
    """Physical memory in bytes. 0: unknown (macOS)."""
    open_fds: int
    """Number of open file descriptors. 0: unknown (macOS, Windows)."""
    max_fds: int
    """Soft limit of open file descriptors. 0: no limit (Windows)."""


def read_process_stats() -> ProcessStats:
    """With many open descriptors the call takes longer, because it lists all of them to count them."""
    if sys.platform == "win32":
        return ProcessStats(_working_set_bytes(), 0, 0)
    else:  # noqa: RET505  # mypy
        resident_bytes = open_fds = 0
        with suppress(OSError):
            with open("/proc/self/statm", "rb") as file:
                resident_bytes = int(file.read().split()[1]) * resource.getpagesize()
            open_fds = len(os.listdir("/proc/self/fd")) - 1  # without the descriptor of the listing
        return ProcessStats(resident_bytes, open_fds, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


class _MemoryCounters(ctypes.Structure):
    """`PROCESS_MEMORY_COUNTERS` of psapi.h, the memory statistics of a process on Windows."""

    _sizes = "peak_working_set working_set peak_paged paged peak_nonpaged nonpaged pagefile peak_pagefile"
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("page_faults", ctypes.c_uint32),
        *((name, ctypes.c_size_t) for name in _sizes.split()),
    )


def _working_set_bytes() -> int:
    if sys.platform != "win32":
        return 0
    counters = _MemoryCounters(size=ctypes.sizeof(_MemoryCounters))
    try:
        kernel = ctypes.WinDLL("kernel32")
    except OSError:
        return 0
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.K32GetProcessMemoryInfo.argtypes = ctypes.c_void_p, ctypes.POINTER(_MemoryCounters), ctypes.c_uint32
    if not kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.size):
        return 0
    return int(counters.working_set)


def user_account(environ: Mapping[str, str]) -> str:
    """The numeric user id, or on Windows domain and name (`HOST\\user`) from `environ`."""
    if sys.platform == "win32":
        return f"{environ.get('USERDOMAIN', '.')}\\{environ.get('USERNAME', '')}"
    return str(os.getuid())


RESERVED_FDS = 64
"""Number of file descriptors reserved for log, files, DNS and child processes. Connections use the remaining ones."""
_UNLIMITED_CONNECTIONS = 1 << 20


def raise_fd_limit() -> None:
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or soft < hard):
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            except (OSError, ValueError):  # macOS reports a hard limit that it does not accept
                return


def max_client_connections() -> int:
    """Return the number of client connections for which the limit of open file descriptors suffices. Each reply in
    progress uses two: one to the client and one to the provider. Without a limit: 1,048,576.
    """
    if sys.platform != "win32":
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            return max((soft - RESERVED_FDS) // 2, soft // 8, 1)
    return _UNLIMITED_CONNECTIONS

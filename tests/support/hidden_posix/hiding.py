"""Hides POSIX from all code that is imported later: modules, signals, functions, methods of event loops.

The standard library keeps it, as it is imported before. The packages `platforms` see `sys.platform == "win32"`. Of
Windows itself there are SIGBREAK (here SIGUSR1), process groups and file locks; its libraries (`ctypes.WinDLL`) fail to
load.
"""

import asyncio
import asyncio.unix_events
import concurrent.futures.process
import concurrent.futures.thread
import ctypes.util
import errno
import fcntl
import functools
import getpass
import http.server
import importlib.abc
import importlib.machinery
import importlib.metadata
import inspect
import logging.handlers
import multiprocessing.connection
import multiprocessing.heap
import multiprocessing.popen_fork
import multiprocessing.popen_spawn_posix
import multiprocessing.reduction
import multiprocessing.resource_sharer
import multiprocessing.resource_tracker
import multiprocessing.sharedctypes
import multiprocessing.spawn
import multiprocessing.synchronize
import os
import random
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import tarfile
import tempfile
import threading
import urllib.request
import uuid
import webbrowser
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

PRELOADED = (
    *(asyncio, concurrent, ctypes, getpass, http, importlib, logging, multiprocessing, random, shutil, socketserver),
    *(ssl, tarfile, tempfile, threading, urllib, uuid, webbrowser, zipfile),
)
FOLDER = Path(__file__).parent
MODULES = {"fcntl", "termios", "resource", "pwd", "grp", "pty", "tty", "syslog", "readline", "uvloop"}
SIGNALS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM"}
"""Signals that Windows has."""
SIGNAL_FUNCTIONS = {
    *("alarm", "setitimer", "getitimer", "pause", "pthread_kill", "pthread_sigmask", "sigpending", "sigwait"),
    *("sigwaitinfo", "sigtimedwait", "siginterrupt", "ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF", "ItimerError"),
    *("SIG_BLOCK", "SIG_UNBLOCK", "SIG_SETMASK", "Sigmasks", "pidfd_send_signal"),
}
OS_FUNCTIONS = {
    *("fork", "forkpty", "killpg", "getpgid", "getpgrp", "setpgid", "setpgrp", "setsid", "getsid", "getuid", "geteuid"),
    *("getgid", "getegid", "getgroups", "setuid", "setgid", "seteuid", "setegid", "getresuid", "getresgid", "nice"),
    *("initgroups", "wait", "wait3", "wait4", "waitid", "mkfifo", "mknod", "chroot", "chown", "lchown", "fchown"),
    *(
        "fchdir",
        "fchmod",
        "pread",
        "pwrite",
        "preadv",
        "pwritev",
        "readv",
        "writev",
        "sendfile",
        "pipe2",
        "set_blocking",
    ),
    *("get_blocking", "openpty", "ttyname", "tcgetpgrp", "tcsetpgrp", "confstr", "sysconf", "pathconf", "statvfs"),
    *("getloadavg", "uname", "sync", "posix_spawn", "posix_spawnp", "register_at_fork", "ctermid", "memfd_create"),
    *("eventfd", "lockf", "pidfd_open", "sched_getaffinity", "sched_setaffinity", "sched_yield", "getpriority"),
    *("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_SYNC", "O_DIRECTORY", "O_NOFOLLOW", "WNOHANG", "WIFEXITED"),
}
SOCKET_NAMES = {"AF_UNIX", "AF_NETLINK", "AF_PACKET", "SCM_RIGHTS", "SO_REUSEPORT", "send_fds", "recv_fds"}
LOOP_METHODS = {
    asyncio.selector_events.BaseSelectorEventLoop: ("add_reader", "remove_reader", "add_writer", "remove_writer"),
    asyncio.unix_events._UnixSelectorEventLoop: (
        *("add_signal_handler", "remove_signal_handler", "create_unix_connection", "create_unix_server"),
    ),
}
UNCHANGED = {"platformdirs", "textual"}
"""Packages that choose their code by `sys.platform`, so that they need the functions of this system."""
NEW_PROCESS_GROUP = 0x200
_AS_WINDOWS = ("anthropic_proxy.engine.platforms", "anthropic_proxy.gateway.platforms")


def hide(*, starts_processes: bool = True) -> None:
    """Hide POSIX in this process, and in the processes that it starts by `subprocess`."""
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, _Finder())
    sys.modules["os"] = _without(os, OS_FUNCTIONS)
    posix_signals = {name for name in vars(signal) if name.startswith("SIG") and name.isalnum()} - SIGNALS
    breaks = {"SIGBREAK": signal.SIGUSR1, "CTRL_BREAK_EVENT": signal.SIGUSR1, "CTRL_C_EVENT": signal.SIGINT}
    sys.modules["signal"] = _without(signal, posix_signals | SIGNAL_FUNCTIONS, **breaks)
    exclusive = {"SO_EXCLUSIVEADDRUSE": socket.SO_REUSEADDR}
    sys.modules["socket"] = _without(socket, SOCKET_NAMES, **exclusive)
    for loop, methods in LOOP_METHODS.items():
        for method in methods:
            setattr(loop, method, _only_for_asyncio(getattr(loop, method)))
    sys.modules["msvcrt"] = locks = ModuleType("msvcrt")
    locks.locking, locks.LK_NBLCK = _lock_file, 2  # type: ignore[attr-defined]
    ctypes.WinDLL = _no_library  # type: ignore[attr-defined]
    if starts_processes:
        subprocess.CREATE_NEW_PROCESS_GROUP = NEW_PROCESS_GROUP  # type: ignore[attr-defined]
        subprocess.Popen.__init__ = _start_with_posix_hidden  # type: ignore[method-assign]
        os.environ["PYTHONPATH"] = _search_path(os.environ)


def _lock_file(descriptor: int, mode: int, count: int) -> None:  # the parameters of msvcrt.locking
    """Lock a file as `msvcrt.locking` does, which fails with EACCES if another process has locked the file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PermissionError(errno.EACCES, error.strerror) from None


def _without(module: ModuleType, hidden: set[str], **added: object) -> ModuleType:
    """Return a copy of a module without some names. The module itself stays as it is for those that have it."""
    copy = ModuleType(module.__name__, module.__doc__)
    vars(copy).update({name: value for name, value in vars(module).items() if name not in hidden}, **added)
    return copy


def _only_for_asyncio(method: Callable[..., object]) -> Callable[..., object]:
    def call(*arguments: object) -> object:
        if not sys._getframe(1).f_globals["__name__"].startswith("asyncio."):
            raise NotImplementedError
        return method(*arguments)

    return call


def _no_library(name: str) -> None:
    raise OSError(f"there is no library {name}")


_OF_THIS_PATH = {"find_program", "find_program_command", "describe_missing_program", "list_absolute_folders"}


class _Windows:
    """The module `sys`, apart from the platform."""

    platform = "win32"

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(sys, name, value)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds no hidden module, and loads the modules of `platforms` as on Windows."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> Any:
        if name.partition(".")[0] in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        is_unchanged = name.partition(".")[0] in UNCHANGED
        if not is_unchanged and not name.startswith(_AS_WINDOWS):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            loader = _UnchangedLoader if is_unchanged else _Loader
            spec.loader = loader(spec.loader.name, spec.loader.path)
        return spec


class _UnchangedLoader(importlib.machinery.SourceFileLoader):
    """Loads a module that sees all of POSIX."""

    def exec_module(self, module: ModuleType) -> None:
        hidden, finders = {name: sys.modules[name] for name in ("os", "signal", "socket")}, sys.meta_path[:]
        sys.modules.update(os=os, signal=signal, socket=socket)
        sys.meta_path[:] = [finder for finder in finders if not isinstance(finder, _Finder)]
        try:
            super().exec_module(module)
        finally:
            sys.modules.update(hidden)
            sys.meta_path[:] = finders
            for name in MODULES:
                sys.modules.pop(name, None)


class _Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        platform, sys.platform = sys.platform, "win32"
        try:
            super().exec_module(module)
        finally:
            sys.platform = platform
        if "sys" in vars(module):
            vars(module)["sys"] = _Windows()
        for name in _OF_THIS_PATH & vars(module).keys():  # PATH and its programs are those of this machine
            found = vars(module)[name]
            function = FunctionType(inspect.unwrap(found).__code__, {**vars(module), "sys": sys}, name)
            vars(module)[name] = functools.cache(function) if hasattr(found, "cache_clear") else function


_start = subprocess.Popen.__init__


def _start_with_posix_hidden(self: Any, args: Any, *positional: Any, **options: Any) -> None:
    for name in ("preexec_fn", "pass_fds"):
        if options.get(name):
            raise ValueError(f"{name} is not supported on Windows platforms")
    if options.pop("creationflags", 0) & NEW_PROCESS_GROUP:
        options["start_new_session"] = True
    words = [args] if isinstance(args, str | bytes | os.PathLike) else list(args)
    if words[1:3] == ["-m", "pytest"]:  # its plugins ask for the name of the system, not for what it has
        _start(self, args, *positional, **options)
        return
    if words[:2] == [sys.executable, "-I"]:
        flags = [word for word in words[1:3] if str(word).startswith("-")]
        args = [sys.executable, *flags, str(FOLDER / "isolated.py"), *words[1 + len(flags) :]]
    environment = dict(os.environ if options.get("env") is None else options["env"])
    _start(self, args, *positional, **{**options, "env": {**environment, "PYTHONPATH": _search_path(environment)}})


def _search_path(environment: Any) -> str:
    others = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry != str(FOLDER)]
    return os.pathsep.join([str(FOLDER), *filter(None, others)])

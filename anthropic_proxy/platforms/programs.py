"""Search for programs in the absolute folders of PATH.

The current directory is not searched, because a stranger may have written its files. Windows and `shutil.which` search
it first, and an empty or relative folder in PATH begins there too.
"""

import ntpath
import os
import posixpath
import stat
import sys
from collections.abc import Iterator, Mapping

_DEFAULT_ENDINGS = ".COM;.EXE;.BAT;.CMD"


def find_program(name: str, environ: Mapping[str, str]) -> str | None:
    """Return the path of the program `name`. None: there is no such program.

    A name with a folder is a path, relative to the current directory.
    """
    return next((path for path in list_program_paths(name, environ, sys.platform) if _is_program(path)), None)


def list_absolute_folders(path: str) -> str:
    """Return a value of the variable PATH without its empty and relative folders."""
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
    """Yield the paths that can be the program `name` on `platform` (a value of `sys.platform`)."""
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
        known = [ending for ending in environ.get("PATHEXT", _DEFAULT_ENDINGS).split(";") if ending]
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
    """Return the path of a program of Windows, such as `schtasks.exe`."""
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

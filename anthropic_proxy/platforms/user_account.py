"""Account of the current user, in the form of the service manager, and files that only this user can change."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path


def user_account(environ: Mapping[str, str]) -> str:
    """Return the account of the current user: the numeric user id, or on Windows domain and name (`HOST\\user`).

    `environ` has the environment variables of the user, which contain domain and name.
    """
    if sys.platform == "win32":
        return f"{environ.get('USERDOMAIN', '.')}\\{environ.get('USERNAME', '')}"
    return str(os.getuid())


def is_written_by_user_only(file: Path) -> bool:
    """Return True if a file exists, belongs to the current user, and no other user may change it."""
    try:
        status = file.stat(follow_symlinks=False)
    except OSError:
        return False
    return sys.platform == "win32" or (status.st_uid == os.getuid() and not status.st_mode & 0o022)

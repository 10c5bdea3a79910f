"""Name of the account of the user, as the service manager of the platform refers to it."""

import os
import sys
from collections.abc import Mapping


def user_account(environ: Mapping[str, str]) -> str:
    """Return the numeric user id, or on Windows domain and name (`HOST\\user`). `environ`: environment of the user."""
    if sys.platform == "win32":
        return f"{environ.get('USERDOMAIN', '.')}\\{environ.get('USERNAME', '')}"
    return str(os.getuid())

"""Name of the account of the user, as the service manager of the platform refers to it."""

import os
import sys
from collections.abc import Mapping


def user_account(environ: Mapping[str, str]) -> str:
    """Return the account of the user: the numeric user id, or on Windows domain and name (`HOST\\user`).

    `environ` is the environment of the user, from which domain and name are read.
    """
    if sys.platform == "win32":
        return f"{environ.get('USERDOMAIN', '.')}\\{environ.get('USERNAME', '')}"
    return str(os.getuid())

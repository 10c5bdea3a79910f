"""Account of the current user, in the form that the service manager of the operating system requires."""

import os
import sys
from collections.abc import Mapping


def user_account(environ: Mapping[str, str]) -> str:
    """Return the account of the current user: the numeric user id, or on Windows domain and name (`HOST\\user`).

    `environ` has the environment variables of the user, which contain domain and name.
    """
    if sys.platform == "win32":
        return f"{environ.get('USERDOMAIN', '.')}\\{environ.get('USERNAME', '')}"
    return str(os.getuid())

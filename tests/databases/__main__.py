"""Run the tests of the ledger and of virtual keys on a private PostgreSQL server. Options go to pytest.

The same tests run on SQLite without this command.

As root on Debian, PostgreSQL is installed if it is missing. Elsewhere nothing is tested without it.
"""

import os
import subprocess
import sys

from tests.support.debian_packages import install_package
from tests.support.ledger import DATABASE_VARIABLE
from tests.support.postgres import find_programs, running_postgres

TESTS = (
    *("tests/unit/ledger", "tests/unit/access", "tests/unit/gateway_protocol", "tests/processes/test_ledger.py"),
    "tests/unit/scim",
    "tests/unit/stores",
    "tests/databases",
)
ON_POSTGRESQL = ("-k", "postgresql or test_ledger or test_spool or databases")

if find_programs() is None:
    install_package("postgresql")
programs = find_programs()
if programs is None:
    sys.stderr.write("There is no PostgreSQL, and no Debian package of it: nothing was tested.\n")
    sys.exit(0)
with running_postgres(programs) as postgres:
    environment = {**os.environ, DATABASE_VARIABLE: postgres.url}
    command = [sys.executable, "-m", "pytest", *TESTS, *ON_POSTGRESQL, *sys.argv[1:]]
    sys.exit(subprocess.run(command, env=environment, check=False).returncode)

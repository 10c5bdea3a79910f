"""Run the tests of stores with a private server: Redis, or Valkey if the first word is `valkey`. Words go to pytest.

As root on Debian, Redis is installed if it is missing. Valkey comes from a package of the index. Without the server,
nothing is tested.
"""

import os
import subprocess
import sys

from tests.support.debian_packages import find_program, install_package
from tests.support.packaged_programs import find_packaged_program
from tests.support.redis import PROGRAM_VARIABLE, running_redis
from tests.support.stores import REDIS_VARIABLE


def main(options: list[str]) -> int:
    """Run the tests. Return the exit status of pytest."""
    if options[:1] == ["valkey"]:
        options = options[1:]
        program = find_packaged_program("valkey-server") or find_program("valkey-server")
    else:
        if find_program("redis-server") is None:
            install_package("redis-server")
        program = find_program("redis-server")
    if program is None:
        sys.stderr.write("The server is missing, and there is no package of it: nothing was tested.\n")
        return 0
    os.environ[PROGRAM_VARIABLE] = program
    with running_redis() as server:
        command = [sys.executable, "-m", "pytest", "tests/unit/stores", "tests/redis_server", *options]
        environment = {**os.environ, REDIS_VARIABLE: server.url}
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

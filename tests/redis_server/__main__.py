"""Run the tests of stores with private servers, first Redis, then Valkey. Words go to pytest.

As root on Debian, Redis is installed if it is missing. Valkey comes from a package of the index. Without both, nothing
is tested.
"""

import os
import subprocess
import sys

from tests.support.debian_packages import find_program, install_package
from tests.support.packaged_programs import find_packaged_program
from tests.support.redis import PROGRAM_VARIABLE, running_redis
from tests.support.stores import REDIS_VARIABLE


def main(options: list[str]) -> int:
    """Run the tests with each server. Return 1 if a test failed."""
    if find_program("redis-server") is None:
        install_package("redis-server")
    servers = [find_program("redis-server"), find_packaged_program("valkey-server") or find_program("valkey-server")]
    failed = False
    for program in filter(None, servers):
        os.environ[PROGRAM_VARIABLE] = program
        print(f"--- {program}", flush=True)
        with running_redis() as server:
            command = [sys.executable, "-m", "pytest", "tests/unit/stores", "tests/redis_server", *options]
            environment = {**os.environ, REDIS_VARIABLE: server.url}
            failed |= subprocess.run(command, env=environment, check=False).returncode != 0
    if not any(servers):
        sys.stderr.write("There is no Redis or Valkey, and no package of them: nothing was tested.\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A private PostgreSQL server for tests: on loopback, in a temporary directory, stopped at the end."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.server_process import ending, hold_port
from tests.support.waiting import WAIT_SECONDS, reporting_log, wait_for

USER = "ledger"
_INSTALLED = Path("/usr/lib/postgresql")
"""Directory in which Debian installs each version of the server. Its programs are not in PATH."""


def find_programs() -> Path | None:
    """Return the directory with `initdb` and `pg_ctl`. None: the server is not installed."""
    found = sorted(_INSTALLED.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    return Path(program).parent if program else None


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    url: str
    """URL of its empty database."""
    stop: Callable[[], None]
    """Ends its connections and the server."""
    start: Callable[[], None]
    """Starts the server again, with its data, on the same port."""


@contextmanager
def running_postgres(programs: Path) -> Iterator[Postgres]:
    """Start an empty server. It runs as `nobody` if this process is root, because it refuses root."""
    with tempfile.TemporaryDirectory(prefix="ledger-postgres-") as name, hold_port() as port:
        folder = Path(name)
        account = pwd.getpwnam("nobody") if os.getuid() == 0 else None
        if account is not None:
            os.chown(folder, account.pw_uid, account.pw_gid)
        folder.chmod(0o700)

        def run(program: str, *words: str) -> None:
            command = [str(programs / program), "-D", str(folder / "data"), *words]
            environment = {"PATH": os.environ["PATH"], "HOME": name, "LANG": "C.UTF-8"}
            with (folder / "output.log").open("ab") as output:
                done = subprocess.run(
                    command,
                    cwd=folder,
                    env=environment,
                    stdout=output,
                    stderr=output,
                    timeout=WAIT_SECONDS,
                    check=False,
                    user=None if account is None else account.pw_uid,
                    group=None if account is None else account.pw_gid,
                    extra_groups=None if account is None else (),
                )
            assert done.returncode == 0, (folder / "output.log").read_text("utf-8", errors="replace")

        run("initdb", "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"

        def start() -> None:
            run("pg_ctl", "-w", "-o", options, "-l", str(folder / "server.log"), "start")

        start()
        try:
            yield Postgres(
                f"postgresql://{USER}@127.0.0.1:{port}/postgres",
                stop=lambda: run("pg_ctl", "-w", "-m", "fast", "stop"),
                start=start,
            )
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")


@contextmanager
def running_pooler(program: str, postgres: Postgres) -> Iterator[str]:
    """Start PgBouncer in front of a server, in its default mode. Yield the URL of the database behind it."""
    account = pwd.getpwnam("nobody") if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="ledger-pooler-") as name, hold_port() as port:
        folder = Path(name)
        server = postgres.url.rpartition("@")[2].partition("/")[0]
        (folder / "users").write_text(f'"{USER}" ""\n')
        (folder / "pooler.ini").write_text(
            f"[databases]\npostgres = host=127.0.0.1 port={server.partition(':')[2]}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n"
            f"auth_file = {folder}/users\nadmin_users = {USER}\n"
        )
        folder.chmod(0o755)
        with (folder / "output.log").open("wb") as output:
            process = subprocess.Popen(
                [program, str(folder / "pooler.ini")],
                stdout=output,
                stderr=output,
                user=None if account is None else account.pw_uid,
                group=None if account is None else account.pw_gid,
                extra_groups=None if account is None else (),
            )
        with ending(process), reporting_log(process, folder / "output.log"):
            wait_for(lambda: b"process up" in (folder / "output.log").read_bytes())
            yield f"postgresql://{USER}@127.0.0.1:{port}/postgres"

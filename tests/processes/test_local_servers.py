"""Two servers of one machine on one SQLite file, as those of the command `code`: no alarm."""

import json
from contextlib import closing
from pathlib import Path

from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.console.ledger.instances import list_instances
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.secrets import Secret
from tests.support.command_line import run_command
from tests.support.server_process import running_proxy
from tests.support.waiting import wait_for


def test_two_servers_on_one_sqlite_file_are_no_problem(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/ledger.sqlite3"
    settings = {"DATABASE_URL": address, "VIRTUAL_KEYS": "true", "SERVE_DEMO": "true"}
    settings["ADMIN_API_KEY"] = "admin-canary0123456789abcdef01234567"
    ledger = Settings(database_url=Secret(address))
    with running_proxy(tmp_path, settings) as first, running_proxy(tmp_path, settings) as second:

        def count_rows() -> int:
            with closing(open_for_writing(ledger)) as connection:
                return len(list_instances(connection))

        wait_for(count_rows, lambda count: count == 2)
        with closing(open_for_writing(ledger)) as connection, connection.transaction():
            connection.execute("UPDATE instances SET started_at = started_at - 60000000")
        for proxy in (first, second):
            assert {*proxy.client().get("/readyz").json()["checks"]} == {"server", "ledger"}
        done = run_command("doctor", "--json", "--no-learn", directory=tmp_path, settings=settings)
        assert "instances" not in json.dumps(json.loads(done.stdout)["problems"])
        assert "instances" not in first.log + second.log

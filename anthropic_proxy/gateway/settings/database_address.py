"""Address of the database of the ledger: a SQLite file, or a database on a PostgreSQL server."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from msgspec import Struct

from anthropic_proxy.engine.patterns import compile_anchored

_URL = compile_anchored(
    r"[\w+]+://(?:(?P<user>[^:/]*)(?::(?P<password>[^@]*))?@)?"
    r"(?:(?:\[(?P<ipv6>[^/?]+)\]|(?P<host>[^/:?@]+))?(?::(?P<port>[0-9]*))?)?(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?"
)
_HOST_AND_PORT = compile_anchored(r"([a-zA-Z0-9.-]*):(\d*)")
_MAX_PORT = 65_535


class DatabaseAddress(Struct, frozen=True):
    file: Path | None = None
    """None: the database is on PostgreSQL."""
    host: str | None = None
    port: int | None = None
    user: str | None = None
    password: str | None = None
    database: str | None = None
    parameters: Mapping[str, str | tuple[str, ...]] = {}
    """Other parameters of libpq; a tuple for one that is given several times."""

    def describe(self) -> str:
        """Return the path of the SQLite file, or the host and database name on PostgreSQL, without a password."""
        return (
            str(self.file) if self.file is not None else f"PostgreSQL {self.host or 'localhost'}/{self.database or ''}"
        )

    def list_options(self) -> dict[str, Any]:
        """Return the options of a connection to PostgreSQL, in which several hosts are one text."""
        fields = {"host": self.host, "port": self.port, "user": self.user, "password": self.password}
        options: dict[str, Any] = {name: value for name, value in {**fields, "dbname": self.database}.items() if value}
        for name, value in self.parameters.items():
            options[name] = ",".join(value) if isinstance(value, tuple) else value
        if "host" in self.parameters and "port" not in self.parameters:
            hosts = options["host"].split(",")
            places = [_HOST_AND_PORT.fullmatch(host) for host in hosts]
            if any(places):
                options["host"] = ",".join(
                    host if place is None else place[1] for host, place in zip(hosts, places, strict=True)
                )
                options["port"] = ",".join("" if place is None else place[2] for place in places)
        return options


def parse_postgres_url(text: str) -> DatabaseAddress:
    """Split the address of a PostgreSQL database.

    `text` is `postgresql://user:password@host:port/database?name=value`; each part may be missing. Raises `ValueError`
    for another form.
    """
    match = _URL.fullmatch(text)
    if match is None or (match["port"] and not 1 <= int(match["port"][:6]) <= _MAX_PORT):
        raise ValueError("the text is no address of a PostgreSQL database")
    parameters: dict[str, str | tuple[str, ...]] = {}
    for name, value in parse_qsl(match["query"] or ""):
        earlier = parameters.get(name, ())
        earlier = (earlier,) if isinstance(earlier, str) else earlier
        parameters[name] = (*earlier, value) if earlier else value
    user, password, database = (part and unquote(part) for part in match.group("user", "password", "database"))
    return DatabaseAddress(
        host=match["host"] or match["ipv6"],
        port=int(match["port"]) if match["port"] else None,
        user=user,
        password=password,
        database=database,
        parameters=parameters,
    )

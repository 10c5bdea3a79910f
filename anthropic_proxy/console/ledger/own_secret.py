"""The secret of `OwnKeys` in the database of the ledger, where it survives a restart."""

from contextlib import closing

from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.console.ledger.schema import SHARED_VALUES
from anthropic_proxy.engine.own_keys import SECRET_NAME
from anthropic_proxy.gateway.settings import Settings

_NEVER = 1 << 62
_STORE = (
    f"INSERT INTO {SHARED_VALUES.name} (name, value, expires_at) VALUES (?, ?, {_NEVER}) ON CONFLICT (name) DO NOTHING"
)
_READ = f"SELECT value FROM {SHARED_VALUES.name} WHERE name = ?"


def keep_secret(settings: Settings, secret: str) -> str:
    """Store a secret, unless there is one already, and return the stored one. Raises one of `LEDGER_FAILURES`."""
    with closing(open_for_writing(settings)) as connection:
        if not (rows := connection.query(_READ, (SECRET_NAME,))):
            with connection.transaction():
                connection.execute(_STORE, (SECRET_NAME, secret))
                rows = connection.query(_READ, (SECRET_NAME,))
    return str(rows[0][0])

"""The secret of `OwnKeys` in the database of the ledger, where it survives a restart."""

from contextlib import closing

from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.console.ledger.schema import READ_LASTING_VALUE, STORE_LASTING_VALUE
from anthropic_proxy.engine.own_keys import SECRET_NAME
from anthropic_proxy.gateway.settings import Settings


def keep_secret(settings: Settings, secret: str) -> str:
    """Store a secret, unless there is one already, and return the stored one. Raises one of `LEDGER_FAILURES`."""
    with closing(open_for_writing(settings)) as connection:
        if not (rows := connection.query(READ_LASTING_VALUE, (SECRET_NAME,))):
            with connection.transaction():
                connection.execute(f"{STORE_LASTING_VALUE} NOTHING", (SECRET_NAME, secret))
                rows = connection.query(READ_LASTING_VALUE, (SECRET_NAME,))
    return str(rows[0][0])

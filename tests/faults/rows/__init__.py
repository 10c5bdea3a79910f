"""The table: one row a fault."""

from tests.faults.rows import begin, body, client, connect, kinds, letters, status, stream
from tests.faults.rows.row import Row

ROWS: tuple[Row, ...] = (
    *connect.ROWS,
    *begin.ROWS,
    *status.ROWS,
    *kinds.ROWS,
    *body.ROWS,
    *stream.ROWS,
    *letters.ROWS,
    *client.ROWS,
)

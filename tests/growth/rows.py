"""All rows of the table, and all measurements: each row on each of its wires."""

from tests.growth import rows_http, rows_replies, rows_requests, rows_schemas

ROWS = [*rows_requests.ROWS, *rows_schemas.ROWS, *rows_replies.ROWS, *rows_http.ROWS]
MEASUREMENTS = [(row, wire) for row in ROWS for wire in row.wires]

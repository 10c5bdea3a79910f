"""The table of faults: one row per fault."""

from tests.faults.cases import begin, body, client, connect, status, stream

CASES = (*connect.CASES, *begin.CASES, *status.CASES, *body.CASES, *stream.CASES, *client.CASES)

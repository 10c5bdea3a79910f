"""The table of faults: one row per fault."""

from tests.faults.cases import begin, body, client, connect, encodings, kinds, status, stream
from tests.faults.cases.case import FaultCase

CASES: tuple[FaultCase, ...] = (
    *connect.CASES,
    *begin.CASES,
    *status.CASES,
    *kinds.CASES,
    *body.CASES,
    *stream.CASES,
    *encodings.CASES,
    *client.CASES,
)

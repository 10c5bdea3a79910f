"""Faults of the connection: none, or an unusable one."""

from functools import partial

from tests.faults.call import Call, raw
from tests.faults.cases.case import fault_case
from tests.faults.expected import Refused, both
from tests.faults.upstream import FaultyUpstream

TLS_ALERT = bytes((21, 3, 3, 0, 2, 2, 70))
"""The alert of a TLS server to a client that does not use TLS: fatal, protocol_version."""
UNREACHABLE = both(Refused(502, "api_error"), 2)
SILENT = [[Call.wait]]
case = partial(fault_case, "connect")

CASES = (
    case("refused", both(Refused(502, "api_error", final=True), 2), scripts=SILENT, arm=FaultyUpstream.refuse),
    case(
        "connection never accepted (full backlog)",
        UNREACHABLE,
        scripts=SILENT,
        arm=FaultyUpstream.overflow,
        settings={"UPSTREAM_CONNECT_TIMEOUT": "1"},
    ),
    case("connection reset after accept", UNREACHABLE, scripts=[[Call.reset]]),
    case("connection closed after accept", UNREACHABLE, scripts=[[Call.shut]]),
    case("TLS where HTTP is expected", UNREACHABLE, scripts=[[raw(TLS_ALERT), Call.shut]]),
    case(
        "HTTP where TLS is expected",
        UNREACHABLE,
        scripts=[[raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Call.shut]],
        scheme="https",
    ),
    case(
        "connection accepted, then no data",
        both(Refused(504, "timeout_error")),
        scripts=SILENT,
        settings={"UPSTREAM_FIRST_BYTE_TIMEOUT": "2"},
    ),
)

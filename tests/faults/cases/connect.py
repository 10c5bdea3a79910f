"""Faults of the connection: none, or an unusable one."""

from tests.faults.call import Call, raw
from tests.faults.cases.case import FaultCase
from tests.faults.expected import Refused, both
from tests.faults.upstream import FaultyUpstream

PHASE = "connect"
UNREACHABLE = Refused(502, "api_error")
TLS_ALERT = bytes((21, 3, 3, 0, 2, 2, 70))
"""The alert of a TLS server to a client that does not use TLS: fatal, protocol_version."""

CASES = (
    FaultCase(
        phase=PHASE,
        fault="refused",
        scripts=[[Call.wait]],
        cases=both(Refused(502, "api_error", final=True), 2),
        arm=FaultyUpstream.refuse,
    ),
    FaultCase(
        phase=PHASE,
        fault="connection never accepted (full backlog)",
        scripts=[[Call.wait]],
        cases=both(UNREACHABLE, 2),
        arm=FaultyUpstream.overflow,
        settings={"UPSTREAM_CONNECT_TIMEOUT": "1"},
    ),
    FaultCase(phase=PHASE, fault="connection reset after accept", scripts=[[Call.reset]], cases=both(UNREACHABLE, 2)),
    FaultCase(phase=PHASE, fault="connection closed after accept", scripts=[[Call.shut]], cases=both(UNREACHABLE, 2)),
    FaultCase(
        phase=PHASE,
        fault="TLS where HTTP is expected",
        scripts=[[raw(TLS_ALERT), Call.shut]],
        cases=both(UNREACHABLE, 2),
    ),
    FaultCase(
        phase=PHASE,
        fault="HTTP where TLS is expected",
        scripts=[[raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Call.shut]],
        cases=both(UNREACHABLE, 2),
        scheme="https",
    ),
    FaultCase(
        phase=PHASE,
        fault="connection accepted, then no data",
        scripts=[[Call.wait]],
        cases=both(Refused(504, "timeout_error")),
        settings={"UPSTREAM_FIRST_BYTE_TIMEOUT": "1"},
    ),
)

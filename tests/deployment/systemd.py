"""The unit of systemd in deploy/, written from the command `service`."""

from pathlib import PurePosixPath

from anthropic_proxy.cli.service import ServiceDefinition, encode_systemd_unit
from tests.support.paths import ROOT

UNIT = ROOT / "deploy/systemd/anthropic-proxy.service"
HEADING = """\
# Written by `python3 scripts/ci.py deployment --write`. The package is installed in /opt/anthropic-proxy. Settings and
# keys are in /etc/anthropic-proxy/environment (docs/guide/operations.md#service-managers).
"""


def write_unit() -> str:
    """Return the unit for an installation in `/opt/anthropic-proxy` with its settings in `/etc/anthropic-proxy`."""
    interpreter = PurePosixPath("/opt/anthropic-proxy/bin/python")
    definition = ServiceDefinition(interpreter, PurePosixPath("/etc/anthropic-proxy"), PurePosixPath("/dev/null"))
    return HEADING + encode_systemd_unit(definition, system_wide=True)

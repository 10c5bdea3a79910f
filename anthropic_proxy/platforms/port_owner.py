"""Process that listens on a TCP port of this machine, for the error about an occupied port.

On Linux, `find_port_owner` finds the process in /proc. If the process is not found, the user can run a command of
`PORT_OWNER_COMMANDS` instead.
"""

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

PORT_OWNER_COMMANDS = {
    "linux": "ss -ltnp sport = :{port}",
    "darwin": "lsof -nP -iTCP:{port} -sTCP:LISTEN",
    "win32": "Get-Process -Id (Get-NetTCPConnection -State Listen -LocalPort {port}).OwningProcess",
}
"""`sys.platform` → command with which a user finds the owner of a port. On Windows: in PowerShell."""
_PROC = Path("/proc")
_LISTEN = "0A"
"""Value of the column `st` in /proc/net/tcp for a listening socket (proc_pid_net(5))."""


class PortOwner(Struct, frozen=True):
    """Process that listens on a TCP port, named in the error about an occupied port."""

    pid: int
    """Process id."""
    name: str
    """Name of the program: `node`."""


def find_port_owner(port: int, proc_directory: Path = _PROC) -> PortOwner | None:
    """Return the process that listens on a TCP port.

    None: unknown, for example on macOS and Windows, or for a process of another user.
    """
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port, proc_directory)}
    if not sockets:
        return None
    for directory in proc_directory.glob("[0-9]*"):
        try:
            if any(str(entry.readlink()) in sockets for entry in (directory / "fd").iterdir()):
                return PortOwner(int(directory.name), (directory / "comm").read_text().strip())
        except OSError:  # another user's process, or one that has ended
            continue
    return None


def _listening_inodes(port: int, proc_directory: Path) -> Iterator[str]:
    """Yield the inode numbers of the sockets that listen on a port, over IPv4 and IPv6."""
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc_directory / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for columns in map(str.split, lines):
            local, state, inode = columns[1], columns[3], columns[9]
            if state == _LISTEN and int(local.rpartition(":")[2], 16) == port:
                yield inode

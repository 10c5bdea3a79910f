import sys

from tests.support.fakes.compatible.server import KINDS, new_server
from tests.support.fakes.server import run

if __name__ == "__main__":
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in KINDS:
        sys.exit(f"the first argument is one of {', '.join(KINDS)}")
    run(f"A strict stand-in for {name}.", lambda chosen, log: new_server(name, log, chosen.key))

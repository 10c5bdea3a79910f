"""Runs a program within its limits, JSON in, JSON out: `python launcher.py <program> <bytes> <CPU seconds>`."""

import importlib.machinery
import importlib.util
import json
import sys

try:
    import resource
except ImportError:  # Windows has no such limits; only the time limit applies there
    resource = None  # type: ignore[assignment]


def main(program: str, memory_bytes: int, cpu_seconds: int) -> None:
    """Apply the limits, run the program on the JSON value of standard input, and write its JSON output."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    loader = importlib.machinery.SourceFileLoader("program", program)
    spec = importlib.util.spec_from_loader("program", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    output = module.main(json.loads(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(json.dumps(output, ensure_ascii=False).encode(errors="replace"))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

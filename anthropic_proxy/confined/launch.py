"""Starts a program within its limits: `python launch.py <program> <bytes> <processor seconds>`, JSON in, JSON out."""

import importlib.machinery
import importlib.util
import json
import sys

try:
    import resource
except ImportError:  # Windows has no such limits; there the process is only killed
    resource = None  # type: ignore[assignment]


def main(program: str, memory_bytes: int, processor_seconds: int) -> None:
    """Answer what stands on standard input."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CPU, (processor_seconds, processor_seconds + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    loader = importlib.machinery.SourceFileLoader("program", program)
    spec = importlib.util.spec_from_loader("program", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    said = module.answer(json.loads(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(json.dumps(said, ensure_ascii=False).encode(errors="replace"))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

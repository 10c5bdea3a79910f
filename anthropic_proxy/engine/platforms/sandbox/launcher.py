"""Script that the proxy starts as a child process, to run one sandboxed program file with limits.

Its arguments are the path of the program file, the maximum bytes of memory, and the maximum CPU seconds. The function
`main` of the program file receives the JSON value from standard input. Its result is written to standard output as
JSON.
"""

import contextlib
import importlib.machinery
import importlib.util
import json
import sys

if sys.platform != "win32":  # which has no limits of memory and CPU time; the parent process enforces the duration
    import resource


def main(program: str, memory_bytes: int, cpu_seconds: int) -> None:
    """Limit the memory and CPU time of this process (not on Windows), then run a program file."""
    if sys.platform != "win32":
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it writes no file
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # Linux
        file.write("1000")  # if the machine has no memory left, this process ends, and not the server
    loader = importlib.machinery.SourceFileLoader("program", program)
    spec = importlib.util.spec_from_loader("program", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    output = module.main(json.loads(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(json.dumps(output, ensure_ascii=False).encode(errors="replace"))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

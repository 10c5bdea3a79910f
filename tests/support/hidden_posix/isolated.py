"""`python -I -S isolated.py FILE …`: run FILE with POSIX hidden, in a process that ignores PYTHONPATH."""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    import hiding  # type: ignore[import-not-found]

    del sys.path[0], sys.argv[0]
    hiding.hide(starts_processes=False)
    sys.platform = "win32"
    runpy.run_path(sys.argv[0], run_name="__main__")

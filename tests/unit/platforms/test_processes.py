"""Command lines of child processes: they import nothing from the current directory, also in a checkout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from anthropic_proxy.gateway.platforms import processes
from anthropic_proxy.gateway.platforms.processes import proxy_command
from tests.support.paths import ROOT
from tests.support.platform_marks import needs_process_limits

PRINTS_COMMAND = (
    "import json, sys; sys.path.insert(0, sys.argv[1]); "
    "from anthropic_proxy.gateway.platforms.processes import proxy_command; "
    "print(json.dumps(proxy_command('doctor', 'a b')))"
)


def test_modules_of_the_current_directory_are_not_imported(tmp_path: Path) -> None:
    (tmp_path / "msgspec.py").write_text("raise SystemExit('imported from the current directory')")
    ended = subprocess.run(proxy_command("--version"), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.strip()


def test_a_checkout_without_installation_runs_itself(tmp_path: Path) -> None:
    checkout = tmp_path / "check out" / "anthropic_proxy"
    (checkout / "gateway/platforms").mkdir(parents=True)
    for name in ("__init__.py", "gateway/__init__.py", "gateway/platforms/__init__.py"):
        (checkout / name).touch()
    shutil.copy(processes.__file__, checkout / "gateway/platforms")
    (checkout / "__main__.py").write_text("import json, sys; print(json.dumps([__name__, *sys.argv]))")
    other = tmp_path / "installed" / "anthropic_proxy"
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    (other / "__main__.py").write_text("raise SystemExit('another copy')")
    environment = {**os.environ, "PYTHONPATH": str(other.parent)}
    without_packages = (sys.executable, "-S")
    printed = subprocess.check_output([*without_packages, "-c", PRINTS_COMMAND, str(checkout.parent)], text=True)
    command = [*without_packages, *json.loads(printed)[1:]]
    printed = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    assert json.loads(printed) == ["__main__", str(checkout / "__main__.py"), "doctor", "a b"]


def test_the_command_line_needs_no_escapes_on_windows() -> None:
    assert not {'"', "%", "\n", "^", "!"} & set("".join(proxy_command("doctor", "--yes")[1:4]))


RAISES_LIMIT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, int(sys.argv[1])))
from anthropic_proxy.gateway.platforms.processes import raise_fd_limit
raise_fd_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@needs_process_limits
@pytest.mark.parametrize("hard", [256, 512])
def test_a_server_may_open_as_many_files_as_the_system_permits(hard: int) -> None:
    words = [sys.executable, "-c", RAISES_LIMIT, str(hard)]
    ended = subprocess.run(words, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)})
    assert ended.stdout == f"{hard} {hard}\n"

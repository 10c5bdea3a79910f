"""The maximum size of files that commands read."""

from pathlib import Path

import pytest

from tests.support.command_line import run_command


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        (("import", "FILE"), 4 * 1024 * 1024),
        (("explain", "FILE"), 32 * 1024 * 1024),
        (("routes", "explain", "FILE"), 32 * 1024 * 1024),
        (("lint-stream", "FILE"), 64 * 1024 * 1024),
    ],
)
def test_input_files_have_a_limit(tmp_path: Path, words: tuple[str, ...], limit: int) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(limit + 1)
    for name in ("large", "/dev/zero"):
        done = run_command(*(word.replace("FILE", name) for word in words), directory=tmp_path)
        message = f'✕ "{name}" has more than {limit:,} bytes, the maximum of this command.\n'
        assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


def test_standard_input_has_a_limit(tmp_path: Path) -> None:
    done = run_command("import", "-", directory=tmp_path, stdin="#" * (4 * 1024 * 1024 + 1))
    message = "✕ standard input has more than 4,194,304 bytes, the maximum of this command.\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)

"""Search for programs: absolute folders of PATH only, never the current directory."""

import os
from pathlib import Path

import pytest

from anthropic_proxy.gateway.platforms.processes import (
    describe_missing_program,
    find_program,
    list_program_paths,
)

POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="platform: programs without endings")


def write_program(file: Path, mode: int = 0o755) -> str:
    file.parent.mkdir(exist_ok=True)
    file.write_text("#!/bin/sh\n")
    file.chmod(mode)
    return str(file)


@POSIX_ONLY
@pytest.mark.parametrize("search_path", ["", ".", ":", "hostile:", "./hostile", "~/hostile", "hostile/../hostile"])
def test_the_current_directory_and_relative_folders_are_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search_path: str
) -> None:
    hostile = tmp_path / "project"
    write_program(hostile / "tool")
    write_program(hostile / "hostile/tool")
    monkeypatch.chdir(hostile)
    assert find_program("tool", {"PATH": search_path}) is None
    own = write_program(tmp_path / "own/tool")
    assert find_program("tool", {"PATH": f"{search_path}:{tmp_path}/own"}) == own
    assert find_program("tool", {"PATH": f"{tmp_path}/own:{search_path}"}) == own


@POSIX_ONLY
@pytest.mark.parametrize("search_path", ["node_modules/.bin:/none", ".:./node_modules/.bin", "node_modules/.bin"])
def test_a_program_in_relative_folders_of_path_only_has_its_own_description(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search_path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "node_modules").mkdir()
    write_program(tmp_path / "node_modules/.bin/tool")
    folder = next(folder for folder in search_path.split(":") if "node_modules" in folder)
    assert describe_missing_program("tool", {"PATH": search_path}) == (
        f'it is only in "{folder}". Relative folders of PATH are not searched, because the current directory would '
        "decide. Use the absolute path of this folder"
    )
    for other, path in (("other", search_path), ("./tool", search_path), ("tool", "/nonexistent")):
        assert describe_missing_program(other, {"PATH": path}) == ""


@POSIX_ONLY
def test_the_first_executable_file_is_found(tmp_path: Path) -> None:
    write_program(tmp_path / "a/tool", 0o644)
    (tmp_path / "b/tool").mkdir(parents=True)
    own = write_program(tmp_path / "c/tool")
    write_program(tmp_path / "d/tool")
    assert find_program("tool", {"PATH": ":".join(f"{tmp_path}/{name}" for name in "abcd")}) == own
    assert find_program("other", {"PATH": f"{tmp_path}/c"}) is None


@POSIX_ONLY
def test_a_path_names_its_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = write_program(tmp_path / "own/tool")
    monkeypatch.chdir(tmp_path)
    assert find_program(own, {}) == own
    assert find_program("own/tool", {}) == "own/tool"
    assert find_program("./tool", {"PATH": f"{tmp_path}/own"}) is None


@POSIX_ONLY
def test_without_path_the_folders_of_the_system_are_searched() -> None:
    assert find_program("sh", {}) in {f"{folder}/sh" for folder in os.defpath.split(":")}


@pytest.mark.parametrize(
    ("name", "search_path", "expected"),
    [
        ("claude", r"C:\npm", [r"C:\npm\claude.EXE", r"C:\npm\claude.CMD"]),
        ("claude.cmd", r"C:\npm", [r"C:\npm\claude.cmd"]),
        ("claude.js", r"C:\npm", [r"C:\npm\claude.js.EXE", r"C:\npm\claude.js.CMD"]),
        ("op", r'"C:\Program Files\op";\\host\tools\bin', None),
        ("op", r".;;bin;..\bin;\bin;C:bin;C:;%USERPROFILE%\bin;D", []),
        (r"D:\own\op", r"C:\npm", [r"D:\own\op.EXE", r"D:\own\op.CMD"]),
        (r"own\op.exe", r"C:\npm", [r"own\op.exe"]),
        ("own/op.exe", r"C:\npm", ["own/op.exe"]),
        ("D:op.exe", r"C:\npm", ["D:op.exe"]),
    ],
)
def test_windows_searches_absolute_folders_with_the_endings_of_pathext(
    name: str, search_path: str, expected: list[str] | None
) -> None:
    if expected is None:
        folders = (r"C:\Program Files\op", r"\\host\tools\bin")
        expected = [rf"{folder}\{name}{ending}" for folder in folders for ending in (".EXE", ".CMD")]
    environ = {"PATH": search_path, "PATHEXT": ".EXE;.CMD;"}
    assert list(list_program_paths(name, environ, "win32")) == expected


def test_windows_has_default_endings_and_no_default_folders() -> None:
    found = list(list_program_paths("op", {"PATH": r"C:\bin"}, "win32"))
    assert found == [rf"C:\bin\op{ending}" for ending in (".COM", ".EXE", ".BAT", ".CMD")]
    assert list(list_program_paths("op", {}, "win32")) == []

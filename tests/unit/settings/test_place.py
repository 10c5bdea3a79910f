"""The one folder with the settings files, and files of the current directory that are not read."""

import json
import os
from pathlib import Path

import platformdirs
import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import list_variables, load_settings
from anthropic_proxy.gateway.settings.place import (
    describe_unread_files,
    find_checkout,
    find_data_directory,
    find_env_file,
    find_settings_folder,
    find_user_folder,
)
from tests.support.command_line import run_command
from tests.support.paths import ROOT

NAMES = list_variables(PROVIDERS)


def test_a_named_folder_takes_precedence_and_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "own").mkdir()
    for given in (str(tmp_path / "own"), "~/own"):
        assert find_settings_folder({"ANTHROPIC_PROXY_CONFIG": given}) == tmp_path / "own"
    with pytest.raises(ConfigurationError) as caught:
        find_settings_folder({"ANTHROPIC_PROXY_CONFIG": "~/none"})
    assert caught.value.message == (
        f'ANTHROPIC_PROXY_CONFIG is "~/none", but there is no folder {tmp_path}/none. Create it, or name another.'
    )


@pytest.mark.parametrize("given", [".", "own", "./own/", "../own", "~no-such-user/own"])
def test_the_current_directory_does_not_complete_a_folder_of_the_environment(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        find_settings_folder({"ANTHROPIC_PROXY_CONFIG": given})
    assert caught.value.message == (
        f'ANTHROPIC_PROXY_CONFIG is "{given}". Use an absolute path, or one that begins with ~/. '
        "The option --config accepts a relative path."
    )
    relative = {"HOME": "own", "LOCALAPPDATA": "own"}
    assert (find_user_folder(relative), find_data_directory(relative)) == (None, None)


def test_a_checkout_has_its_own_files() -> None:
    assert find_checkout() == ROOT
    assert find_settings_folder({"HOME": "/home/ada"}) == ROOT
    assert find_env_file({"HOME": "/home/ada"}) == (".env" if Path.cwd() == ROOT else str(ROOT / ".env"))


def test_the_folders_of_the_user_are_those_of_platformdirs(monkeypatch: pytest.MonkeyPatch) -> None:
    for environ in (dict(os.environ), {**os.environ, "XDG_CONFIG_HOME": "/one", "XDG_DATA_HOME": "/two"}):
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        assert find_user_folder(environ) == platformdirs.user_config_path("anthropic-proxy", appauthor=False)
        assert find_data_directory(environ) == platformdirs.user_data_path("anthropic-proxy", appauthor=False)
    assert find_user_folder({"HOME": "", "LOCALAPPDATA": ""}) is None


def test_the_files_of_another_directory_are_named_and_no_command_moves_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, place = tmp_path / "my project", tmp_path / "home/.config/anthropic-proxy"
    project.mkdir()
    place.mkdir(parents=True)
    monkeypatch.chdir(project)
    env_file = str(place / ".env")
    for name in ("proxy.env", ".env.local", "anthropic-proxy.toml.bak", ".envrc"):
        (project / name).write_text("PORT=3000\n")
    assert describe_unread_files(env_file, NAMES) == ""
    (project / ".env").write_text("SECRET_KEY_BASE=1\n# PORT=1\n")
    assert describe_unread_files(env_file, NAMES) == ""  # none of our settings
    (project / ".env").write_text("SECRET_KEY_BASE=1\n\n export PORT = 3000\n")
    one = f"{project}/.env is not read, because settings files belong in {place}. Use  --config .  if you trust it"
    assert describe_unread_files(env_file, NAMES) == f"{one}; move it there only if you wrote it."
    (project / "anthropic-proxy.toml").touch()
    assert describe_unread_files(env_file, NAMES) == (
        f"{project}/.env and {project}/anthropic-proxy.toml are not read, because settings files belong in {place}. "
        "Use  --config .  if you trust them; move them there only if you wrote them."
    )
    (project / "anthropic-proxy.toml").unlink()
    (place / ".env").touch()
    assert describe_unread_files(env_file, NAMES) == f"{one}."
    assert describe_unread_files(None, NAMES) == f"{project}/.env is not read. Use  --config .  if you trust it."
    assert describe_unread_files(str(project / ".env"), NAMES) == ""


@pytest.mark.parametrize("command", [("config", "show"), ("config", "show", "--json")])
def test_config_show_names_unread_files_on_stderr_only(command: tuple[str, ...], tmp_path: Path) -> None:
    own, project = tmp_path / "own", tmp_path / "project"
    for folder in (own, project):
        folder.mkdir()
    (project / ".env").write_text("PORT=1\n")
    done = run_command(*command, directory=project, settings={"ANTHROPIC_PROXY_CONFIG": str(own)})
    sentence = (
        f"  ! ~/.env is not read, because settings files belong in {own}. Use  --config .  if you trust it; "
        "move it there only if you wrote it."
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if "not read" in line]) == (0, [sentence])
    assert "not read" not in done.stdout
    if "--json" in command:
        assert json.loads(done.stdout)["files"] == []


def test_relative_paths_begin_at_the_folder_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text(
        "TLS_CERT_FILE=tls/one.pem\nTLS_KEY_FILE=/tls/one.key\nDATABASE_URL=sqlite:///data/one.sqlite3?timeout=1\n"
        "OTEL_EXPORTER_OTLP_CERTIFICATE=ca.pem\n"
    )
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": "key.json", "OTEL_EXPORTER_OTLP_CLIENT_KEY": "own.key"}
    settings = load_settings(environ, PROVIDERS, env_file=str(tmp_path / ".env"))
    assert settings.tls_certificate_file == str(tmp_path / "tls/one.pem")
    assert settings.tls_key_file == "/tls/one.key"
    assert settings.google_credentials_file == str(tmp_path / "key.json")
    assert settings.database_url.reveal() == f"sqlite:///{tmp_path}/data/one.sqlite3?timeout=1"
    assert {name: secret.reveal() for name, secret in settings.otel_variables.items()} == {
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "ca.pem"),
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(tmp_path / "own.key"),
    }
    with pytest.raises(ConfigurationError) as caught:
        load_settings({"TLS_CERT_FILE": "one.pem"}, PROVIDERS)
    assert caught.value.message == (
        'TLS_CERT_FILE is "one.pem". Use an absolute path, because there is no folder for settings files. '
        "Set in the environment."
    )


def test_every_command_accepts_the_folder_before_and_after_its_name(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / ".env").write_text("BIG_MODEL=gpt-5.5\n")
    for words in (
        ("--config", "own", "-v", "usage"),
        ("usage", "-v", "--config=own"),
        ("keys", "list", "--config", str(own), "-v"),
    ):
        done = run_command(*words, directory=tmp_path)
        assert (done.returncode, done.stderr.splitlines()[0]) == (0, "  Settings files: ~/own/.env")
    done = run_command("--config", "none", "usage", directory=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        f'✕ --config is "none", but there is no folder {tmp_path}/none. Create it, or name another.\n',
    )
    done = run_command("usage", "--config", directory=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "✕ --config has no value. Use the folder with .env and anthropic-proxy.toml.\n",
    )


@pytest.mark.parametrize(
    ("name", "text", "is_accepted"),
    [
        ("SSL_CERT_FILE", "certs/ca.pem", False),
        ("SSL_CERT_FILE", "~/ca.pem", False),
        ("SSL_CERT_FILE", "/certs/ca.pem", True),
        ("SSL_CERT_DIR", "certs", False),
        ("SSL_CERT_DIR", "/certs:certs", False),
        ("SSL_CERT_DIR", "/certs:/more", True),
    ],
)
def test_certificate_authorities_are_not_read_from_the_current_directory(
    tmp_path: Path, name: str, text: str, is_accepted: bool
) -> None:
    def load() -> object:
        return load_settings({name: text}, PROVIDERS, env_file=str(tmp_path / ".env"))

    if is_accepted:
        load()
        return
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert caught.value.message == (
        f'{name} is "{text}". Use an absolute path, because TLS libraries begin a relative one at the current '
        "directory. Set in the environment."
    )

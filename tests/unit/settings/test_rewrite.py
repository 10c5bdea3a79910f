"""`config check --write`: old names leave .env, and the fields of anthropic-proxy.toml get their values."""

import os
import sys
import tomllib
from pathlib import Path

import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings.rewrite import plan_rewrite, write_rewrite
from tests.support.clocks import start_at_recorded_time
from tests.support.command_line import OPENAI, run_command

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="permissions and owners of POSIX")


def rewrite(folder: Path, env: str, toml: str | None = None, environ: dict[str, str] | None = None) -> tuple[str, str]:
    """Return both files after the command."""
    (folder / ".env").write_bytes(env.encode())
    if toml is not None:
        (folder / "anthropic-proxy.toml").write_bytes(toml.encode())
    write_rewrite(plan_rewrite(environ or {}, PROVIDERS, str(folder / ".env")))
    return (folder / ".env").read_bytes().decode(), read(folder)


def read(folder: Path) -> str:
    file = folder / "anthropic-proxy.toml"
    return file.read_bytes().decode() if file.exists() else ""


def refused(folder: Path, env: str, toml: str | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        rewrite(folder, env, toml)
    assert (folder / ".env").read_bytes().decode() == env
    assert read(folder) == (toml or "")
    assert not [*folder.glob("*.before-move*")]
    return " ".join(caught.value.messages).replace(str(folder), "FOLDER")


def test_values_move_and_everything_else_stays(tmp_path: Path) -> None:
    env = (
        "# keys\nOPENAI_API_KEY=sk-0123456789abcdef # mine\n\n# the check\nAUTO_MODE=client  # for now\n"
        "export AUTO_MODE_MODEL='openai/gpt-4.1'\nAUTO_MODE_TIMEOUT=1\nAUTO_MODE_TIMEOUT=7.5\nBIG_MODEL=gpt-4.1\n"
        'OIDC_ADMINS="platform, ann@example.org"\n'
    )
    toml = '# ours\n[auto_mode]  # rules\ndeny = ["x"]\n\n[sign_in.groups."*"]\nteam = "a"\n'
    after = rewrite(tmp_path, env, toml)
    assert after == (
        "# keys\nOPENAI_API_KEY=sk-0123456789abcdef # mine\n\n# the check\n# for now\nBIG_MODEL=gpt-4.1\n",
        '# ours\n[auto_mode]  # rules\nmode = "client"\nmodel = "openai/gpt-4.1"\ntimeout = 7.5\ndeny = ["x"]\n\n'
        '[sign_in.groups."*"]\nteam = "a"\n\n[sign_in]\nadmins = ["platform", "ann@example.org"]\n',
    )
    assert (tmp_path / ".env.before-move").read_text() == env
    assert (tmp_path / "anthropic-proxy.toml.before-move").read_text() == toml
    assert rewrite(tmp_path, *after) == after
    assert [*tmp_path.glob("*.before-move?")] == []


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        (None, "[sign_in]\ndays = 7\n"),
        ("", "[sign_in]\ndays = 7\n"),
        ("x = 1", None),
        (
            "[search]\nservice = 'brave'\napi_key = { env = 'K' }",
            "[search]\nservice = 'brave'\napi_key = { env = 'K' }\n\n[sign_in]\ndays = 7\n",
        ),
        ('sign_in = { contact = "a" }\n', 'sign_in = { days = 7, contact = "a" }\n'),
        ("sign_in = {}\n", "sign_in = { days = 7}\n"),
        ('sign_in.contact = "a"\n', 'sign_in.days = 7\nsign_in.contact = "a"\n'),
        ('["sign_in"]\ncontact = "a"\n', '["sign_in"]\ndays = 7\ncontact = "a"\n'),
        ("[ sign_in ]", "[ sign_in ]\ndays = 7\n"),
        ("[sign_in]\r\ncontact = 'a'\r\n", "[sign_in]\r\ndays = 7\r\ncontact = 'a'\r\n"),
        ("\ufeff[sign_in]\ncontact = 'a'\n", "\ufeff[sign_in]\ndays = 7\ncontact = 'a'\n"),
        ('[sign_in]\nnotice = """\n[sign_in]\n"""\n', '[sign_in]\ndays = 7\nnotice = """\n[sign_in]\n"""\n'),
        (
            '[auto_mode]\ndeny = ["""\n[sign_in]\n"""]\n',
            '[auto_mode]\ndeny = ["""\n[sign_in]\n"""]\n\n[sign_in]\ndays = 7\n',
        ),
        ("[sign_in]\ndays = 7\n", "[sign_in]\ndays = 7\n"),
    ],
)
def test_forms_of_the_configuration_file(tmp_path: Path, toml: str | None, expected: str | None) -> None:
    if expected is None:
        assert refused(tmp_path, "SIGN_IN_DAYS=7\n", toml).startswith("x is not a setting.")
        return
    assert rewrite(tmp_path, "SIGN_IN_DAYS=7\n", toml) == ("", expected)


@pytest.mark.parametrize(
    ("env", "expected", "contact"),
    [
        ("\ufeffLIMIT_CONTACT=a\r\nA=1\r\n", "\ufeffA=1\r\n", "a"),
        ("LIMIT_CONTACT='it\\'s \"here\" \\\\'", "", 'it\'s "here" \\'),
        ('LIMIT_CONTACT="a # b" # c\n', "# c\n", "a # b"),
        ("LIMIT_CONTACT=a#b # it's\n", "# it's\n", "a#b"),
        ("LIMIT_CONTACT=a\nLIMIT_CONTACT=b\n", "", "b"),
        ("LIMIT_CONTACT=ünï ✓\n", "", "ünï ✓"),
        ("A=1\n  export LIMIT_CONTACT = a\nB=2\n", "A=1\n  B=2\n", "a"),
    ],
)
def test_forms_of_a_line(tmp_path: Path, env: str, expected: str, contact: str) -> None:
    changed, toml = rewrite(tmp_path, env)
    assert (changed, tomllib.loads(toml)) == (expected, {"sign_in": {"contact": contact}})


def test_an_empty_value_and_a_placeholder_stay_in_place(tmp_path: Path) -> None:
    env = "AUTO_MODE=\nAUTO_MODE_MODEL=your-model\n"
    assert rewrite(tmp_path, env) == (env, "")
    assert [*tmp_path.iterdir()] == [tmp_path / ".env"]


def test_a_variable_of_the_environment_is_not_touched(tmp_path: Path) -> None:
    env = "AUTO_MODE=off\nAUTO_MODE_TIMEOUT=5\n"
    assert rewrite(tmp_path, env, environ={"AUTO_MODE": "client"}) == ("AUTO_MODE=off\n", "[auto_mode]\ntimeout = 5\n")


def test_what_cannot_be_moved_is_refused_with_its_reason(tmp_path: Path) -> None:
    assert refused(tmp_path, "NAME=a\nLIMIT_CONTACT=${NAME}\n") == (
        "LIMIT_CONTACT in FOLDER/.env refers to another variable, and anthropic-proxy.toml has no such references. Set "
        "contact of [sign_in] there yourself, and remove LIMIT_CONTACT."
    )
    assert refused(tmp_path, "AUTO_MODE=off\n", '[auto_mode]\nmode = "client"\n') == (
        "AUTO_MODE and mode of [auto_mode] in anthropic-proxy.toml are the same setting and have different values. "
        "Remove AUTO_MODE, which is the old name. Set in FOLDER/.env, line 1."
    )
    assert refused(tmp_path, "AUTO_MODE=maybe\n", "") == (
        'AUTO_MODE is "maybe". Use "check", "client" or "off". Set in FOLDER/.env, line 1.'
    )
    for toml, shown in [
        ('auto_mode = "check"\n', "check"),
        ('[[auto_mode]]\nmode = "check"\n', '[{"mode":"check"}]'),
        ("auto_mode = []\n", "[]"),
    ]:
        assert refused(tmp_path, "AUTO_MODE=off\n", toml) == (
            f'auto_mode is "{shown}". Use a table with allow, confirm_with, deny, environment, mode, model, timeout. '
            "Set in FOLDER/anthropic-proxy.toml, line 1."
        )
    assert refused(tmp_path, "AUTO_MODE=off\n", "[auto_mode\n").startswith("FOLDER/anthropic-proxy.toml, line 1")


@POSIX
def test_mode_owner_and_links_stay(tmp_path: Path) -> None:
    target, folder = tmp_path / "target", tmp_path / "folder"
    target.mkdir()
    folder.mkdir()
    (target / "env").write_text("AUTO_MODE=off\n")
    (target / "env").chmod(0o640)
    (folder / ".env").symlink_to(target / "env")
    if os.geteuid() == 0:
        os.chown(target / "env", 1234, 1234)
    write_rewrite(plan_rewrite({}, PROVIDERS, str(folder / ".env")))
    assert (folder / ".env").is_symlink()
    for file in (target / "env", target / "env.before-move"):
        status = file.stat()
        assert status.st_mode & 0o777 == 0o640
        assert os.geteuid() != 0 or (status.st_uid, status.st_gid) == (1234, 1234)
    assert (target / "env").read_text() == ""
    assert read(folder) == '[auto_mode]\nmode = "off"\n'
    assert (folder / "anthropic-proxy.toml").stat().st_mode & 0o777 == 0o600


@POSIX
@pytest.mark.parametrize("name", [".env", "anthropic-proxy.toml"])
def test_a_read_only_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / ".env").write_text("AUTO_MODE=off\n")
    (tmp_path / "anthropic-proxy.toml").write_text("[auto_mode]\n")
    (tmp_path / name).chmod(0o444)
    with pytest.raises(ConfigurationError) as caught:
        write_rewrite(plan_rewrite({}, PROVIDERS, str(tmp_path / ".env")))
    assert [*caught.value.messages] == [f"{tmp_path / name} was not changed: it is read-only."]
    assert (tmp_path / ".env").read_text() == "AUTO_MODE=off\n"
    assert read(tmp_path) == "[auto_mode]\n"


def test_a_file_that_changes_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("AUTO_MODE=off\n")
    planned = plan_rewrite({}, PROVIDERS, str(tmp_path / ".env"))
    (tmp_path / ".env").write_text("AUTO_MODE=client\n")
    with pytest.raises(ConfigurationError, match="was changed by another program in the meantime"):
        write_rewrite(planned)
    assert read(tmp_path) == ""


def test_an_earlier_copy_is_kept(tmp_path: Path) -> None:
    rewrite(tmp_path, "AUTO_MODE=off\n")
    rewrite(tmp_path, "AUTO_MODE_TIMEOUT=5\n")
    assert [(tmp_path / name).read_text() for name in (".env.before-move", ".env.before-move1")] == [
        "AUTO_MODE=off\n",
        "AUTO_MODE_TIMEOUT=5\n",
    ]


@POSIX
def test_if_a_copy_cannot_be_completed_none_is_left(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    env = f"AUTO_MODE=client\nOPENAI_API_KEY={'k' * 50_000}\n"
    (tmp_path / ".env").write_text(env)
    (tmp_path / "anthropic-proxy.toml").write_text("[auto_mode]\n")
    planned = plan_rewrite({}, PROVIDERS, str(tmp_path / ".env"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(ConfigurationError) as caught:
            write_rewrite(planned)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [*caught.value.messages] == [f"{tmp_path / '.env.before-move'} cannot be written: file too large."]
    assert ((tmp_path / ".env").read_text(), read(tmp_path)) == (env, "[auto_mode]\n")
    assert [*tmp_path.glob("*.before-move*")] == []


@POSIX
def test_a_copy_follows_no_link_and_keeps_the_previous_file_of_the_dashboard(tmp_path: Path) -> None:
    (tmp_path / ".env.bak").write_text("LOG_LEVEL=debug\n")
    (tmp_path / ".env.before-move").symlink_to(tmp_path / "elsewhere")
    rewrite(tmp_path, "AUTO_MODE=off\n")
    assert not (tmp_path / "elsewhere").exists()
    assert (tmp_path / ".env.bak").read_text() == "LOG_LEVEL=debug\n"
    assert (tmp_path / ".env.before-move1").read_text() == "AUTO_MODE=off\n"


def test_the_command_names_what_it_moves_and_prints_no_value(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LIMIT_CONTACT=hidden-place\n")
    settings = {"KEYS_PER_PERSON": "3"}
    ended = run_command("config", "check", "--write", directory=tmp_path, settings=settings)
    assert "hidden-place" not in ended.stdout + ended.stderr
    assert ended.stderr.splitlines()[:3] == [
        "  ✓ LIMIT_CONTACT of .env is now contact of [sign_in] in anthropic-proxy.toml.",
        "  Copy of the previous file: ~/.env.before-move",
        "  ! KEYS_PER_PERSON is in the environment: set keys_per_person of [sign_in] in anthropic-proxy.toml, and "
        "remove KEYS_PER_PERSON there.",
    ]
    assert ended.returncode == 1
    settings = OPENAI | start_at_recorded_time()
    ended = run_command("config", "check", "--write", directory=tmp_path, settings=settings)
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (0, "  No setting has an old name.")

"""`models update`: a signed file replaces the facts about models; any other file changes nothing."""

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from anthropic_proxy.cli.facts_update import FactsUpdate, reset_facts, update_facts
from anthropic_proxy.engine.providers.model_facts import FACTS, find_table_capabilities, load_built_in_facts
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.prices.price_list import describe_price_sources
from anthropic_proxy.gateway.services import open_services
from anthropic_proxy.gateway.settings import Settings, find_changed_variables
from anthropic_proxy.gateway.settings.facts_file import (
    FACTS_FILE_NAME,
    MAX_FACTS_BYTES,
    SIGNATURE_LINE,
    describe_facts,
    format_day,
    store_facts,
    use_installed_facts,
)
from tests.facts.sign_models import sign as sign_file
from tests.facts.sign_models import write_key
from tests.support.command_line import run_command
from tests.support.model_facts import BUILT_IN, PUBLIC_KEY, restored_facts, sign, write_facts
from tests.support.tables import in_one_test

RELOAD = "A proxy that runs reads them at its next start, or when it reloads its settings."
RELEASED = format_day(load_built_in_facts().date)
ENDS = f"The facts of this release apply, of {RELEASED}. Remove it with  anthropic-proxy models update --reset"
LIMIT = ('{ starts = ["grok-1"], context_window = 8_192,', '{ starts = ["grok-1"], context_window = 9_000,')
PRICE = ('models."gpt-6.2-astra" = { input = 8,', 'models."gpt-6.2-astra" = { input = 6,')
END = ('["2026-02-06", "kimi-k2.7-code", ["qwen3-coder"]],', "")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    with restored_facts():
        yield


def update(folder: Path, content: bytes, *, older: bool = False) -> FactsUpdate:
    file = folder / "given.toml"
    file.write_bytes(content)
    return update_facts(Settings(data_directory=folder / "data"), str(file), older=older, public_key=PUBLIC_KEY)


def test_a_signed_file_is_stored_for_its_owner_and_is_in_force(tmp_path: Path) -> None:
    content = sign(write_facts(LIMIT, PRICE, END))
    result = update(tmp_path, content)
    stored = tmp_path / "data" / FACTS_FILE_NAME
    assert result.changes == [
        "openai, gpt-6.2-astra: price of input $8.00 → $6.00",
        "xai, grok-1: context window 8,192 → 9,000",
        "opencode, qwen3-coder: removed: retires on 2026-02-06 (successor kimi-k2.7-code)",
    ]
    assert result.text == f"The facts of 15 Jan 2027 are stored in {stored}. {RELOAD}"
    assert stored.read_bytes() == content
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert [path.name for path in stored.parent.iterdir() if path.suffix == ".tmp"] == []
    assert find_table_capabilities("xai", "grok-1").context_window == 9_000
    assert describe_price_sources().endswith(f", facts of 15 Jan 2027 in {stored}")


def test_an_older_file_is_used_only_if_the_user_asks_for_it(tmp_path: Path) -> None:
    update(tmp_path, sign(write_facts(LIMIT)))
    earlier = sign(write_facts(PRICE, day="2027-01-14"))
    with pytest.raises(ConfigurationError) as refused:
        update(tmp_path, earlier)
    assert refused.value.messages == (
        f"{tmp_path}/given.toml is not used: its facts are of 14 Jan 2027, and those in use of 15 Jan 2027. "
        "To use it nevertheless, add --older.",
    )
    assert find_table_capabilities("xai", "grok-1").context_window == 9_000
    assert "xai, grok-1: context window 9,000 → 8,192" in update(tmp_path, earlier, older=True).changes
    with pytest.raises(ConfigurationError) as refused:
        update(tmp_path, sign(write_facts(day="2026-01-01")), older=True)
    assert refused.value.messages == (
        f"{tmp_path}/given.toml is not used: its facts are of 1 Jan 2026, and those of this release of {RELEASED}. "
        "To return to those:  anthropic-proxy models update --reset",
    )


def test_a_reset_returns_to_the_facts_of_the_release(tmp_path: Path) -> None:
    update(tmp_path, sign(write_facts(LIMIT)))
    settings = Settings(data_directory=tmp_path / "data")
    result = reset_facts(settings)
    assert (result.text, result.changes, result.file) == (
        f"The facts of this release apply, of {RELEASED}. {RELOAD}",
        ["xai, grok-1: context window 9,000 → 8,192"],
        "",
    )
    assert not (tmp_path / "data" / FACTS_FILE_NAME).exists()
    assert FACTS.file is load_built_in_facts()
    assert reset_facts(settings).text == (f"The facts of this release apply, of {RELEASED}. No other file was stored.")


GOOD = sign(write_facts(LIMIT))
NOT_SIGNED = "its signature does not belong to its content and to the key of this release"
UNUSABLE = [
    (b"", "it has no signature in its last line"),
    (BUILT_IN.encode(), "it has no signature in its last line"),
    (GOOD[: len(GOOD) // 2], "it has no signature in its last line"),
    (GOOD[:-30], NOT_SIGNED),
    (GOOD.replace(b"9_000", b"9_001"), NOT_SIGNED),
    (GOOD + b"[x]\n", NOT_SIGNED),
    (GOOD.partition(SIGNATURE_LINE)[0] + SIGNATURE_LINE + b"AAAA\n", NOT_SIGNED),
    (GOOD.partition(SIGNATURE_LINE)[0] + SIGNATURE_LINE + b"\xff\n", NOT_SIGNED),
    (sign(write_facts(LIMIT), Ed25519PrivateKey.from_private_bytes(b"o" * 32)), NOT_SIGNED),
    (sign(write_facts(("format = 1\n", "format = 2\n"))), "its format is 2, and this release reads format 1"),
    (
        sign(write_facts(("[xai]\n", '[xai]\nbase_url = "https://example.org"\n'))),
        "[xai]: Object contains unknown field `base_url`",
    ),
]


@pytest.mark.parametrize(("content", "reason"), UNUSABLE, ids=range(len(UNUSABLE)))
def test_a_file_that_cannot_be_used_changes_nothing(content: bytes, reason: str, tmp_path: Path) -> None:
    update(tmp_path, GOOD)
    with pytest.raises(ConfigurationError) as refused:
        update(tmp_path, content)
    assert refused.value.messages == (f"{tmp_path}/given.toml is not used: {reason}. Nothing has changed.",)
    data = tmp_path / "data"
    assert (data / FACTS_FILE_NAME).read_bytes() == GOOD
    assert find_table_capabilities("xai", "grok-1").context_window == 9_000
    file = store_facts(data, content)  # it was damaged later, or is that of another release
    assert use_installed_facts(data, PUBLIC_KEY) == (f"{file} is not used: {reason}. {ENDS}",)
    assert FACTS.file is load_built_in_facts()


def test_an_installed_file_that_is_too_old_or_unreadable_harms_nothing(tmp_path: Path) -> None:
    file = store_facts(tmp_path, sign(write_facts(LIMIT, day="2026-01-01")))
    assert use_installed_facts(tmp_path, PUBLIC_KEY) == (
        f"{file} is not used: its facts are of 1 Jan 2026, and those of this release are newer. {ENDS}",
    )
    assert FACTS.file is load_built_in_facts()
    file.write_bytes(b"x" * (MAX_FACTS_BYTES + 1))
    (warning,) = use_installed_facts(tmp_path, PUBLIC_KEY)
    assert warning.startswith(f"{file} is not used: ")
    file.unlink()
    file.mkdir()
    (warning,) = use_installed_facts(tmp_path, PUBLIC_KEY)
    assert warning.startswith(f"{file} is not used: ")
    assert use_installed_facts(tmp_path / "none", PUBLIC_KEY) == ()
    assert use_installed_facts(None, PUBLIC_KEY) == ()


def test_the_script_signs_a_file_that_an_installation_with_its_key_accepts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, signed, source = (str(tmp_path / name) for name in ("key.pem", "signed.toml", "facts.toml"))
    write_key(key)
    public = capsys.readouterr().out.strip()
    assert stat.S_IMODE(Path(key).stat().st_mode) == 0o600
    Path(source).write_text(write_facts(LIMIT), "utf-8")
    sign_file(key, signed, source)
    assert capsys.readouterr().out == f"{signed}: facts of 2027-01-15, for the public key {public}\n"
    result = update_facts(Settings(data_directory=tmp_path / "data"), signed, public_key=public)
    assert result.changes == ["xai, grok-1: context window 8,192 → 9,000"]
    with pytest.raises(FileExistsError):
        write_key(key)


async def test_a_reload_follows_the_facts(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path)
    services = await open_services(settings)
    assert services.catalog.cached_capabilities("xai", "grok-1").context_window == 8_192
    store_facts(tmp_path, GOOD)
    assert use_installed_facts(tmp_path, PUBLIC_KEY) == ()
    reloaded = await open_services(settings, previous=services)
    assert reloaded.catalog.cached_capabilities("xai", "grok-1").context_window == 9_000
    await reloaded.close()
    await services.close()


@contextmanager
def serving(status: int, body: bytes, received: list[dict[str, str]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            received.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.send_header("location", "file:///etc/passwd")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/model-facts.toml"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_address_is_fetched_without_credentials(tmp_path: Path) -> None:
    received = list[dict[str, str]]()
    with serving(200, GOOD, received) as url:
        result = update_facts(Settings(data_directory=tmp_path), url, public_key=PUBLIC_KEY)
    assert result.changes == ["xai, grok-1: context window 8,192 → 9,000"]
    assert [{*headers} & {"authorization", "cookie", "x-api-key", "proxy-authorization"} for headers in received] == [
        set()
    ]


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (302, b"", "the server answers with HTTP 302. Redirects are not followed: use the address to which it points."),
        (404, b"", "the server answers with HTTP 404."),
    ],
)
def test_a_redirect_and_an_error_are_no_file(status: int, body: bytes, reason: str, tmp_path: Path) -> None:
    with serving(status, body, []) as url, pytest.raises(ConfigurationError) as refused:
        update_facts(Settings(data_directory=tmp_path), url, public_key=PUBLIC_KEY)
    assert refused.value.messages == (f"{url} cannot be read: {reason} Nothing has changed.",)
    assert list(tmp_path.iterdir()) == []


def test_a_large_reply_is_not_read(tmp_path: Path) -> None:
    with serving(200, b"x" * (MAX_FACTS_BYTES + 1), []) as url, pytest.raises(ConfigurationError) as refused:
        update_facts(Settings(data_directory=tmp_path), url, public_key=PUBLIC_KEY)
    assert refused.value.messages[0].startswith(f"{url} cannot be read: ")
    assert list(tmp_path.iterdir()) == []


@in_one_test
@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/facts.toml",
        "https://user:word@example.org/facts.toml",
        "ftp://127.0.0.1/facts.toml",
        "file:///etc/passwd",
        "https://[::1/facts.toml",
        "https://",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        update_facts(Settings(data_directory=Path("/nowhere")), url)
    assert refused.value.messages == (
        "The address of a file with facts is https://…, or http://… on this machine, without user and password. "
        "Nothing has changed.",
    )


def test_the_commands_say_which_facts_are_in_force(tmp_path: Path) -> None:
    day = load_built_in_facts().date.isoformat()
    listed = json.loads(run_command("config", "show", "--json", directory=tmp_path).stdout)
    assert listed["facts"] == {"date": day, "file": ""}
    assert run_command("config", "show", directory=tmp_path).stderr.splitlines()[-1] == f"  Models: {describe_facts()}"
    file = tmp_path / "given.toml"
    file.write_bytes(GOOD)
    refused = run_command("models", "update", str(file), directory=tmp_path)
    assert (refused.returncode, refused.stdout, refused.stderr) == (
        2,
        "",
        f"✕ {file} is not used: {NOT_SIGNED}. Nothing has changed.\n",
    )
    reset = run_command("models", "update", "--reset", "--json", directory=tmp_path)
    assert json.loads(reset.stdout) == {
        "text": f"The facts of this release apply, of {RELEASED}. No other file was stored.",
        "date": day,
        "file": "",
        "changes": [],
    }
    nothing = run_command("models", "update", directory=tmp_path)
    assert nothing.stderr == (
        "✕ models update needs a file or its address:  anthropic-proxy models update model-facts.toml\n"
    )


def test_a_reload_names_the_facts_that_changed() -> None:
    released, updated = Settings(), Settings(model_facts="facts of 15 Jan 2027 in ~/f.toml")
    assert find_changed_variables(released, updated) == ["facts of 15 Jan 2027 in ~/f.toml"]
    assert find_changed_variables(updated, released) == ["facts of the release"]
    assert find_changed_variables(updated, updated) == []

"""`models update`: a signed file replaces the facts about models; any other file changes nothing."""

import json
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from anthropic_proxy.cli.facts_update import FactsUpdate, reset_facts, update_facts
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.model_facts import FACTS, FactsFile, find_table_capabilities, load_built_in_facts
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.prices.price_list import describe_price_sources
from anthropic_proxy.gateway.services import open_services
from anthropic_proxy.gateway.settings import Settings, find_changed_variables, load_settings
from anthropic_proxy.gateway.settings.facts_file import (
    FACTS_FILE_NAME,
    MAX_FACTS_BYTES,
    SIGNATURE_LINE,
    describe_facts,
    find_installed_facts,
    format_day,
    store_facts,
)
from tests.facts.sign_models import sign as sign_file
from tests.facts.sign_models import write_key
from tests.support.command_line import run_command
from tests.support.model_facts import BUILT_IN, PUBLIC_KEY, restored_facts, sign, write_facts
from tests.support.tables import in_one_test

TODAY = date(2027, 1, 20)
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


def find_installed(directory: Path | None) -> tuple[FactsFile, Sequence[str]]:
    return find_installed_facts(directory, PUBLIC_KEY, TODAY)


def load(folder: Path) -> Settings:
    """Return the settings of a command: those with the facts that are installed."""
    facts, _ = find_installed(folder / "data")
    return Settings(data_directory=folder / "data", facts=facts)


def update(folder: Path, content: bytes, *, older: bool = False, settings: Settings | None = None) -> FactsUpdate:
    file = folder / "given.toml"
    file.write_bytes(content)
    settings = settings or load(folder)
    return update_facts(settings, str(file), older=older, public_key=PUBLIC_KEY, today=TODAY)


def find_window(settings: Settings) -> int:
    with FACTS.trying(settings.facts):
        return find_table_capabilities("xai", "grok-1").context_window


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
    assert find_window(load(tmp_path)) == 9_000
    assert describe_price_sources(load(tmp_path).facts).endswith(f", facts of 15 Jan 2027 in {stored}")
    assert FACTS.file is load_built_in_facts()


def test_an_older_file_is_used_only_if_the_user_asks_for_it(tmp_path: Path) -> None:
    update(tmp_path, sign(write_facts(LIMIT)))
    earlier = sign(write_facts(PRICE, day="2027-01-14"))
    with pytest.raises(ConfigurationError) as refused:
        update(tmp_path, earlier)
    assert refused.value.messages == (
        f"{tmp_path}/given.toml is not used: its facts are of 14 Jan 2027, and those in use of 15 Jan 2027. "
        "To use it nevertheless, add --older.",
    )
    assert find_window(load(tmp_path)) == 9_000
    assert "xai, grok-1: context window 9,000 → 8,192" in update(tmp_path, earlier, older=True).changes
    with pytest.raises(ConfigurationError) as refused:
        update(tmp_path, sign(write_facts(day="2026-01-01")), older=True)
    assert refused.value.messages == (
        f"{tmp_path}/given.toml is not used: its facts are of 1 Jan 2026, and those of this release of {RELEASED}. "
        "To return to those:  anthropic-proxy models update --reset",
    )


def test_a_reset_returns_to_the_facts_of_the_release(tmp_path: Path) -> None:
    update(tmp_path, sign(write_facts(LIMIT)))
    result = reset_facts(load(tmp_path))
    assert (result.text, result.changes, result.file) == (
        f"The facts of this release apply, of {RELEASED}. {RELOAD}",
        ["xai, grok-1: context window 9,000 → 8,192"],
        "",
    )
    assert not (tmp_path / "data" / FACTS_FILE_NAME).exists()
    assert reset_facts(load(tmp_path)).text == (
        f"The facts of this release apply, of {RELEASED}. No other file was stored."
    )


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
    (
        sign(write_facts(LIMIT, day="2027-01-22")),
        "its facts are of 22 Jan 2027, and today is 20 Jan 2027: no later file could replace it",
    ),
    (
        sign(write_facts().partition("\n[sambanova]\n")[0]),
        "it does not have [sambanova], [nebius], [novita] and others, and facts of this release would be lost",
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
    assert find_window(load(tmp_path)) == 9_000
    file = store_facts(data, content)  # it was damaged later, or is that of another release
    assert find_installed(data) == (load_built_in_facts(), (f"{file} is not used: {reason}. {ENDS}",))


def test_an_installed_file_that_is_too_old_or_unreadable_harms_nothing(tmp_path: Path) -> None:
    released = load_built_in_facts()
    file = store_facts(tmp_path, sign(write_facts(LIMIT, day="2026-01-01")))
    problem = "its facts are of 1 Jan 2026, and those of this release are newer"
    assert find_installed(tmp_path) == (released, (f"{file} is not used: {problem}. {ENDS}",))
    file.write_bytes(b"x" * (MAX_FACTS_BYTES + 1))
    assert find_installed(tmp_path) == (released, (f"{file} is not used: it has more than 4,194,304 bytes. {ENDS}",))
    file.unlink()
    file.mkdir()
    assert find_installed(tmp_path) == (released, (f"{file} is not used: it is a folder. {ENDS}",))
    assert find_installed(tmp_path / "none") == (released, ())
    assert find_installed(None) == (released, ())


def test_the_script_signs_a_file_that_an_installation_with_its_key_accepts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, signed, source = (str(tmp_path / name) for name in ("key.pem", "signed.toml", "facts.toml"))
    write_key(key)
    public = capsys.readouterr().out.strip()
    assert stat.S_IMODE(Path(key).stat().st_mode) == 0o600
    day = load_built_in_facts().date.isoformat()
    Path(source).write_text(write_facts(LIMIT, day=day), "utf-8")
    sign_file(key, signed, source)
    assert capsys.readouterr().out == f"{signed}: facts of {day}, for the public key {public}\n"
    result = update_facts(Settings(data_directory=tmp_path / "data"), signed, public_key=public)
    assert result.changes == ["xai, grok-1: context window 8,192 → 9,000"]
    with pytest.raises(FileExistsError):
        write_key(key)


async def test_a_start_and_a_reload_put_the_facts_of_their_settings_in_force(tmp_path: Path) -> None:
    store_facts(tmp_path / "data", GOOD)
    services = await open_services(Settings())
    assert services.catalog.cached_capabilities("xai", "grok-1").context_window == 8_192
    reloaded = await open_services(load(tmp_path), previous=services)
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
    thread = Thread(target=server.serve_forever, args=(0.01,))
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
        result = update_facts(Settings(data_directory=tmp_path), url, public_key=PUBLIC_KEY, today=TODAY)
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
        update_facts(Settings(data_directory=tmp_path), url, public_key=PUBLIC_KEY, today=TODAY)
    assert refused.value.messages == (f"{url} cannot be read: {reason} Nothing has changed.",)
    assert list(tmp_path.iterdir()) == []


def test_a_large_reply_is_not_read(tmp_path: Path) -> None:
    with serving(200, b"x" * (MAX_FACTS_BYTES + 1), []) as url, pytest.raises(ConfigurationError) as refused:
        update_facts(Settings(data_directory=tmp_path), url, public_key=PUBLIC_KEY, today=TODAY)
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
    assert (
        run_command("config", "show", directory=tmp_path).stderr.splitlines()[-1]
        == f"  Models: {describe_facts(load_built_in_facts())}"
    )
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
    released, updated = Settings(), Settings(facts=FactsFile(write_facts(LIMIT), "~/f.toml"))
    assert find_changed_variables(released, updated) == ["facts of 15 Jan 2027 in ~/f.toml"]
    assert find_changed_variables(updated, released) == ["facts of the release"]
    assert find_changed_variables(updated, updated) == []


MODEL_OF = '[providers.own]\nbase_url = "http://127.0.0.1:9/v1"\n[providers.own.models.big]\nmodel_of = "grok-1"\n'
CHEAPEST = '[[routes]]\nname = "cheap"\ntargets = ["openai/gpt-6.2-astra", "openai/gpt-5.5"]\nbalance = "cost"\n'


@pytest.mark.parametrize(
    ("text", "change", "problem"),
    [
        (
            MODEL_OF,
            ('{ starts = ["grok-1"],', '{ starts = ["grok-0"],'),
            'The model_of of own/big is "grok-1". Use the id of a model that the proxy knows, such as gpt-5.6-sol.',
        ),
        (
            CHEAPEST,
            ('models."gpt-6.2-astra" = {', 'models."gpt-6.2-other" = {'),
            'The route "cheap" ({folder}/anthropic-proxy.toml, line 1) has balance = "cost", but '
            'openai/gpt-6.2-astra has no known price. Add [prices."openai/gpt-6.2-astra"] with input and output to '
            "anthropic-proxy.toml.",
        ),
    ],
)
def test_facts_with_which_the_settings_are_not_valid_are_refused(
    text: str, change: tuple[str, str], problem: str, tmp_path: Path
) -> None:
    (tmp_path / "anthropic-proxy.toml").write_text(text)
    environ = {"HOME": str(tmp_path), "OPENAI_API_KEY": "k"}
    settings = load_settings(environ, PROVIDERS, env_file=str(tmp_path / ".env"))
    with pytest.raises(ConfigurationError) as refused:
        update(tmp_path, sign(write_facts(change)), settings=settings)
    assert refused.value.messages == (
        f"{tmp_path}/given.toml is not used, because these settings are not valid with it: "
        f"{problem.replace('{folder}', str(tmp_path))} Nothing has changed.",
    )

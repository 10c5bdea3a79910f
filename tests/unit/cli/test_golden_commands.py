"""Every folder `tests/golden_commands/<command>/<case>/` is one case: commands, their output and the files they write.

`case.toml` has a `title`, the `commands` as lists of words, and if needed `settings` and `stdin`. A command may be a
table with `words` and its own `settings`, `files` and `stdin`; or with `answers`, for a terminal: each is an expected
text and the keys to type then. The other files of the folder are in the directory of the commands, `env` as `.env`;
more `files` are named by their path from `{home}`. `directory`: below the home directory. `servers` are fakes by their
names, or what `scripted_answers` describes: `{name}` is the address of one, `{name.place}` the same without scheme,
`{name.key}` the key that it accepts. `proxy` are the settings of a running proxy, with `{proxy}` and `{port}`.
All processes run at `RECORDED_AT`. `programs` are installed; what they are called with is shown, from the second call
on only what has changed. `data`: the stored files that are shown too. `expected.txt` is what a terminal would show,
and the new or changed files; of a numbered list it has the first four lines.
"""

import json
import re
import shlex
import shutil
import stat
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.cli.service import describe_log
from anthropic_proxy.engine.providers.catalog import LEARNED_FILE_NAME
from anthropic_proxy.engine.providers.model_facts import load_built_in_facts
from anthropic_proxy.gateway.settings.facts_file import describe_facts
from tests.support.clocks import start_at_recorded_time
from tests.support.command_line import install_program, run_command
from tests.support.fakes import anthropic, ollama, openai_chat
from tests.support.fakes.compatible import KINDS, new_server
from tests.support.fakes.compatible.quirks import QUIRKS, new_quirk_server
from tests.support.fakes.server import Running, serving, serving_strictly
from tests.support.golden_texts import mask
from tests.support.paths import TESTS
from tests.support.scripted_answers import new_scripted_server
from tests.support.secret_canaries import find_leaks, new_canary
from tests.support.server_process import reserve_closed_port, running_forked_proxy
from tests.support.terminal import answer_questions

FOLDER = TESTS / "golden_commands"
CASES = sorted(path.parent for path in FOLDER.glob("*/*/case.toml"))
OWN_FILES = ("case.toml", "expected.txt")
FAKES = {
    "anthropic": (anthropic.new_anthropic, anthropic.KEY),
    "ollama": (ollama.new_ollama, ""),
    "openai": (openai_chat.new_openai, openai_chat.KEY),
}
MASKS = {
    r"(?:\d+\.\d+ s|[\d.]+ ms)\b( ?) *": r"T s\1",
    r"( {4}|\n  )(\d+ requests?), T s, [\d,]+ tokens": r"\n  N requests, T s, N tokens",
    r"\d+ requests?, T s, [\d,]+ tokens": "N requests, T s, N tokens",
    r'"(requests|\w*seconds|\w+put_tokens)": [\d.]+': r'"\1": N',
    r"\breq_\w{24}\b": "req_ID",
    r"\b\d{1,2} [A-Z][a-z]{2} 20\d\d, [\d:]{8} UTC": "DATE",
    r"\b20\d{6}-\d{6}-\d+\.json": "DATE.json",
    r"\blocal\d{4,5}\b": "localPORT",
    r"The providers are: [a-z_, ]+\.": "The providers are: VENDORS.",
    r"((?:^ +\d+  .*\n){4})(?:^ +\d+  .*\n)+": r"\1    …\n",
}
"""What differs between runs against servers: durations with place and width, numbers of probes, ids, ports, vendors."""
STANDARD = ("PATH", "HOME", "PYTHONPATH", "PORT", "ANTHROPIC_PROXY_CONFIG", "LC_CTYPE")


@contextmanager
def running_servers(servers: Mapping[str, Any]) -> Iterator[dict[str, tuple[Running, str]]]:
    """Start servers. Yield each with the key that it accepts."""
    found = {}
    with ExitStack() as stack:
        for name, kind in servers.items():
            if isinstance(kind, list):
                running, key = stack.enter_context(serving(new_scripted_server(kind))), new_canary("sk-")
            elif kind in KINDS:
                running, key = stack.enter_context(serving(new_server(kind))), KINDS[kind].key
            elif kind in QUIRKS:
                running, key = stack.enter_context(serving(new_quirk_server(kind))), ""
            else:
                new, key = FAKES[kind]
                running = stack.enter_context(serving_strictly(new()))
            found[name] = running, key
        yield found


def read_files(directory: Path, data: str) -> dict[str, str]:
    files = {
        path
        for path in directory.rglob("*")
        if path.is_file() and not {".local", ".proxy", ".anthropic-proxy.lock"} & {*path.parts}
    }
    files |= {path for path in directory.rglob(data or "nothing") if path.is_file()}
    texts = {str(path.relative_to(directory)): path.read_text("utf-8", "replace") for path in sorted(files)}
    for name, text in texts.items():
        if name.endswith(LEARNED_FILE_NAME):  # has the models in the order of their servers, which have random ports
            facts = json.loads(text)
            facts["models"].sort(key=itemgetter("model"))
            texts[name] = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    return texts


def describe_call(output: str, given: Mapping[str, str]) -> dict[str, str]:
    """Return what an installed program was called with: arguments, variables, and settings: `env`, where it is equal.

    Variables are those with another value than the command had itself; null: it has none.
    """
    call = json.loads(output)
    own_files = {word for word in call["arguments"] if word.startswith("/") and word.endswith(".json")}
    assert not any(Path(file).exists() for file in own_files)
    arguments = ["FILE" if word in own_files else word for word in call["arguments"]]
    facts: dict[str, Any] = {"call": shlex.join([call["program"], *arguments])}
    variables = call["environment"] | {name: None for name in given if name not in call["environment"]}
    facts |= {name: variables[name] for name in sorted(variables) if variables[name] != given.get(name)}
    shown = {name: json.dumps(value, ensure_ascii=False) for name, value in facts.items() if name not in STANDARD}
    for settings in call["settings"]:
        for name, value in settings.pop("env", {}).items():
            shown[name] = shown.get(name, "") + (", env" if facts.get(name) == value else f", env {value!r}")
        shown |= {f"settings {name}": json.dumps(value) for name, value in settings.items()}
    return shown


def show_changes(before: Mapping[str, str], facts: Mapping[str, str]) -> str:
    lines = [f"- {name}" for name in before if name not in facts]
    return "".join(f"{line}\n" for line in [*lines, *(f"{n} = {v}" for n, v in facts.items() if before.get(n) != v)])


def write_files(home: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text, "utf-8")


def play(case: Path, home: Path) -> str:
    fields = tomllib.loads((case / "case.toml").read_text("utf-8"))
    directory = home / fields.get("directory", "")
    directory.mkdir(parents=True, exist_ok=True)
    for file in case.iterdir():
        if file.name not in OWN_FILES:
            shutil.copy(file, directory / (".env" if file.name == "env" else file.name))
    write_files(home, fields.get("files", {}))
    for name in fields.get("programs", ()):
        install_program(home, name)
    before, shown, data, call = read_files(home, fields.get("data", "")), "", fields.get("data", ""), dict[str, str]()
    clock = start_at_recorded_time()
    with ExitStack() as stack:
        servers = stack.enter_context(running_servers(fields.get("servers", {})))
        places = {f"{{{name}}}": running.url for name, (running, _) in servers.items()}
        if "proxy" in fields:
            (home / ".proxy").mkdir()
            same_files = {"HOME": str(home), "ANTHROPIC_PROXY_CONFIG": str(directory)}
            proxy = stack.enter_context(running_forked_proxy(home / ".proxy", same_files | clock | fields["proxy"]))
            places |= {"{proxy}": proxy.url, "{port}": proxy.url.rpartition(":")[2]}
        places |= {f"{{{name}.key}}": key for name, (_, key) in servers.items()}
        places |= {f"{{{name}.place}}": running.url.removeprefix("http://") for name, (running, _) in servers.items()}

        def fill(text: str) -> str:
            for place, value in ({"{home}": str(home)} | places).items():
                text = text.replace(place, value)
            return text

        for command in fields["commands"]:
            own = command if isinstance(command, dict) else {"words": command}
            files = {name: fill(text) for name, text in own.get("files", {}).items()}
            write_files(home, files)
            before |= files
            settings = fields.get("settings", {}) | own.get("settings", {})
            given = "".join(f"{name}={shlex.quote(value)} " for name, value in own.get("settings", {}).items())
            shown += f"$ {given}anthropic-proxy {shlex.join(own['words'])}\n"
            words = [fill(word) for word in own["words"]]
            settings = {name: fill(value) for name, value in settings.items()}
            if "answers" in own:
                answers = [(expected, fill(keys)) for expected, keys in own["answers"]]
                screen = answer_questions(*words, answers=answers, directory=directory, settings=settings | clock)
                done = subprocess.CompletedProcess(words, screen.status, screen.text.replace("\r\n", "\n"), "")
            else:
                stdin = fill(own.get("stdin", fields.get("stdin", "")))
                done = run_command(*words, directory=directory, settings=settings | clock, stdin=stdin)
            assert find_leaks(done.stdout + done.stderr, [key for _, key in servers.values() if key]) == []
            if '"environment": {' in done.stdout:
                # the free ports of two calls may be equal by chance
                known = "|".join(re.escape(url.removeprefix("http://")) for url in places.values()) or "$"
                described = re.sub(rf"(?!{known})127\.0\.0\.1:\d{{5}}\b", "127.0.0.1:FREE", done.stdout)
                call, before_call = describe_call(described, settings), call
                done.stdout = show_changes(before_call, call)
            shown += done.stdout
            shown += f"[standard error]\n{done.stderr}" if done.stderr else ""
            shown += f"[exit status {done.returncode}]\n" if done.returncode else ""
            asked = [name for name, (one, _) in servers.items() if one.journal.exchanges]
            shown += f"[asked: {', '.join(asked)}]\n" if asked else ""
            for one, _ in servers.values():
                one.journal.exchanges.clear()
        after = read_files(home, data)
        for name, text in after.items():
            if before.get(name) != text:
                mode = stat.S_IMODE((home / name).stat().st_mode)
                is_open = name.endswith(".env") and mode != 0o600
                shown += f"\n[file {name}{f', mode {mode:o}' if is_open else ''}]\n{text}"
        for place, value in places.items():
            name = place.strip("{}")
            if value.startswith("http"):
                shown = shown.replace(value, f"http://{name}").replace(value.removeprefix("http://"), name)
            elif value:
                shown = shown.replace(value, f"<{name}>").replace(f"…{value[-4:]}", f"…<{name}>")
    if "programs" in fields:
        shown = re.sub(r'"command": ".* statusline"', '"command": "… statusline"', shown)
        shown = re.sub(r"127\.0\.0\.1:\d{5}\b", "127.0.0.1:FREE", shown)
    shown = shown.replace(describe_facts(load_built_in_facts()), "facts of DATE")
    shown = shown.replace(f"of the service  {describe_log()}", "of the service  PLACE")
    if servers or "init" in case.parts:
        for pattern, name in MASKS.items():
            shown = re.sub(pattern, name, shown, flags=re.MULTILINE)
    return mask(shown, HOME=str(home), PORT=reserve_closed_port())


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.relative_to(FOLDER)))
def test_commands_print_and_write_what_is_recorded(case: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    shown, file = play(case, tmp_path), case / "expected.txt"
    if request.config.getoption("--update-golden"):
        file.write_text(shown, "utf-8")
    assert shown == file.read_text("utf-8")

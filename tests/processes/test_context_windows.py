"""Window and price of a model at a public server are the same in every command, also with the facts of the doctor."""

import json
import re
from pathlib import Path

import pytest

from tests.support.command_line import run_command
from tests.support.fakes.server import serving
from tests.support.scripted_answers import new_scripted_server
from tests.support.server_process import running_proxy
from tests.support.terminal import answer_questions
from tests.support.waiting import wait_for

Limits = tuple[int, int]
MODEL = {
    "id": "acme/large",
    "context_length": 1_048_576,
    "top_provider": {"max_completion_tokens": None},
    "pricing": {"prompt": "0.000002", "completion": "0.00001", "input_cache_read": "0.0000005", "request": "0"},
}
REQUEST = {"model": "claude-opus-5-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
TABLE = '[providers.openrouter]\nbase_url = "http://openrouter.ai/api/v1"\napi_key = { env = "OPENROUTER_API_KEY" }\n'


@pytest.mark.parametrize("examines", [False, True], ids=["list", "doctor"])
def test_all_commands_state_the_window_of_the_list(tmp_path: Path, examines: bool) -> None:
    (tmp_path / "anthropic-proxy.toml").write_text(TABLE)
    answers = [{"if": "@/api/v1/models", "then": f"200 {json.dumps({'data': [MODEL]})}"}]
    with serving(new_scripted_server(answers)) as vendor:
        settings = {
            "HTTP_PROXY": vendor.url,
            "NO_PROXY": "127.0.0.1",
            "PREFERRED_PROVIDER": "openrouter",
            "OPENROUTER_API_KEY": "sk-or-v1-0123456789abcdef",
            "BIG_MODEL": "openrouter/acme/large",
            "SMALL_MODEL": "openrouter/acme/large",
            "DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}",
        }
        if examines:
            run_command("doctor", "--yes", directory=tmp_path, settings=settings)
        with running_proxy(tmp_path, settings) as proxy:
            own = settings | {"PORT": proxy.url.rpartition(":")[2]}
            variables = json.loads(run_command("env", "--json", directory=tmp_path, settings=own).stdout)
            mapping = json.loads(run_command("models", "--json", directory=tmp_path, settings=own).stdout)
            listed = json.loads(run_command("models", "openrouter", "--json", directory=tmp_path, settings=own).stdout)
            screen = answer_questions("models", "openrouter", answers=[], directory=tmp_path, settings=own)
            entry = proxy.client().get("/v1/models/claude-opus-5-5").json()
            proxy.client().post(
                "/v1/messages",
                json={**REQUEST, "metadata": {"user_id": '{"session_id": "s1"}'}},
            )
            session = {"session_id": "s1", "model": {"id": "claude-opus-5-5"}}

            def show_status() -> str:
                text = json.dumps(session)
                return run_command("statusline", directory=tmp_path, settings={**own, **variables}, stdin=text).stdout

            line = wait_for(show_status, lambda shown: "session" in shown)  # the ledger stores the request later
    limits = {name: value for name, value in variables.items() if name.startswith("CLAUDE_CODE_") and "MAX" in name}
    assert limits == {"CLAUDE_CODE_MAX_CONTEXT_TOKENS": "1048576"}
    descriptions = {value for name, value in variables.items() if name.endswith("OPUS_MODEL_DESCRIPTION")}
    assert descriptions == {"replies to opus, 1.0 M context"}
    facts = [row["facts"] for row in mapping["mapping"]] + listed["models"]
    assert {(one["context_window"], one["max_input"], one["max_output"]) for one in facts} == {
        (1_048_576, 1_048_576, None)
    }
    assert (entry["max_input_tokens"], entry["max_input_tokens_assumed"], entry["max_tokens"]) == (
        1_048_576,
        False,
        None,
    )
    source = "model list of openrouter.ai"
    assert {(*(one["price"][name] for name in ("input", "cached_input", "output", "source")),) for one in facts} == {
        (2, 0.5, 10, source)
    }
    prices, costs = (text.strip() for text in screen.lines[-2:])
    assert prices.startswith(f"Prices: {source}, else genai-prices ")
    assert costs == "If a reply states its cost, the request has this cost."
    assert line.startswith("openrouter/acme/large · <1 % of 1.0 M · session <$0.001 · ")


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("model", ["acme/large", "openai/gpt-5.5"], ids=["unknown", "known"])
def test_the_models_of_another_server_are_those_of_its_list_else_the_configured_ones(
    tmp_path: Path, status: int, model: str
) -> None:
    models = [{"id": model}, {"id": "gpt-4.1"}, {"id": "acme/small"}]
    answers = [{"if": "@/api/v1/models", "then": f"{status} {json.dumps({'data': models})}"}]
    with serving(new_scripted_server(answers)) as vendor:
        settings = {
            "OPENAI_API_KEY": "sk-or-v1-0123456789abcdef",
            "OPENAI_BASE_URL": f"{vendor.url}/api/v1",
            "BIG_MODEL": f"openai/{model}",
            "SMALL_MODEL": f"openai/{model}",
        }
        with running_proxy(tmp_path, settings) as proxy:
            listed = proxy.client().get("/v1/models?limit=1000").json()["data"]
    names = [entry["id"] for entry in listed if "/" in entry["id"]]
    others = ["claude-openai/gpt-4.1", "claude-openai/acme/small"] if status == 200 else []
    assert names == [f"claude-openai/{model}", *others]


@pytest.mark.parametrize(
    ("model", "stated", "used_before", "used_after"),
    [
        ("openai/gpt-4.1", (2_000_000, 40_000), (1_047_576, 32_768), (2_000_000, 40_000)),
        ("openai/gpt-4.1", (70_000, 9_000), (1_047_576, 32_768), (70_000, 9_000)),
        ("openai/gpt-5.5", (2_000_000, 200_000), (922_000, 128_000), (922_000, 200_000)),
        ("openai/gpt-5.5", (70_000, 9_000), (922_000, 128_000), (70_000, 9_000)),
        ("mine/set", (2_000_000, 40_000), (100_000, 20_000), (100_000, 20_000)),
        ("mine/set", (70_000, 9_000), (100_000, 20_000), (100_000, 20_000)),
        ("mine/open", (70_000, 9_000), (70_000, 9_000), (70_000, 9_000)),
    ],
)
def test_all_surfaces_show_the_same_limits_if_the_list_states_others(
    tmp_path: Path, model: str, stated: Limits, used_before: Limits, used_after: Limits
) -> None:
    """Limits: the largest input and output in tokens."""
    models = [{"id": model.partition("/")[2], "context_length": stated[0], "max_output_tokens": stated[1]}]
    with serving(new_scripted_server([{"if": "@/models", "then": f"200 {json.dumps({'data': models})}"}])) as vendor:
        table = (
            f'[providers.mine]\nbase_url = "{vendor.url}/v1"\n'
            "[providers.mine.models.set]\ncontext_window = 100_000\nmax_output = 20_000\n"
        )
        (tmp_path / "anthropic-proxy.toml").write_text(table)
        settings = {
            "OPENAI_API_KEY": "sk-0123456789abcdef",
            "OPENAI_BASE_URL": f"{vendor.url}/v1",
            "BIG_MODEL": model,
            "SMALL_MODEL": model,
            "DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}",
        }

        def list_limits() -> list[list[int]]:
            commands = (("models",), ("models", model.partition("/")[0]))
            mapping, listed = (
                json.loads(run_command(*words, "--json", directory=tmp_path, settings=settings).stdout)
                for words in commands
            )
            facts = [one["facts"] for one in mapping["mapping"]]
            facts += [one for one in listed["models"] if one["model"] == model]
            with running_proxy(tmp_path, settings) as proxy:
                client = proxy.client()
                entry = client.get("/v1/models/claude-opus-5").json()
                client.post("/v1/messages", json=REQUEST)
                recent = client.get("/api/requests/recent").json()  # for the status line
                page = client.get("/dashboard/providers").text
            windows = [one["max_input"] for one in facts] + [entry["max_input_tokens"], recent["windows"][model]]
            outputs = [one["max_output"] for one in facts] + [entry["max_tokens"]]
            for found, title in ((windows, "context window, tokens"), (outputs, "output limit, tokens")):
                for row in re.findall(f"{title}(.*?)</tr>", page, re.DOTALL | re.IGNORECASE):
                    found += [int(number.replace(",", "")) for number in re.findall(r"\d+(?:,\d+)+", row)]
            return [windows, outputs]

        before = list_limits()
        words = ("doctor", model, "--yes", "--json")
        report = json.loads(run_command(*words, directory=tmp_path, settings=settings).stdout)
        examined = [[one[name] for one in report["backends"]] for name in ("context_window", "max_output")]
        after = [one + other for one, other in zip(examined, list_limits(), strict=True)]
    assert [{*one} for one in before] == [{limit} for limit in used_before]
    assert [{*one} for one in after] == [{limit} for limit in used_after]

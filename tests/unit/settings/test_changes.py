"""Changes between two readings of the settings, and the digests with which servers compare them."""

from pathlib import Path

import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import Settings, load_settings
from anthropic_proxy.gateway.settings.changes import digest_values, list_changes

BEFORE = """
[managed_settings."*"]
apiKeyHelper = "/opt/canary-1"
cleanupPeriodDays = 30

[managed_settings.contractors]
model = "opus"

[[inspectors]]
name = "secrets"
type = "patterns"
detect = ["keys"]

[[routes]]
name = "first"
targets = ["demo/demo"]

[[routes]]
name = "second"
targets = ["demo/demo"]

[providers.box]
base_url = "http://127.0.0.1:1/canary-2"

[sign_in.groups."*"]
team = "web"
"""
AFTER = """
[managed_settings."*"]
apiKeyHelper = "/opt/canary-3"
cleanupPeriodDays = 30

[[inspectors]]
name = "secrets"
type = "patterns"
detect = ["keys", "card-numbers"]

[[inspectors]]
name = "cards"
type = "patterns"
detect = ["card-numbers"]

[[routes]]
name = "second"
targets = ["demo/demo"]

[[routes]]
name = "first"
targets = ["demo/other"]

[providers.box]
base_url = "http://127.0.0.1:1/canary-4"

[sign_in.groups."*"]
team = "canary-5"
"""


def read(folder: Path, variables: str, tables: str) -> Settings:
    (folder / ".env").write_text(variables)
    (folder / "anthropic-proxy.toml").write_text(tables)
    return load_settings({}, PROVIDERS, env_file=str(folder / ".env"))


def test_each_change_names_what_has_changed_without_secrets(tmp_path: Path) -> None:
    before = read(tmp_path, "LOG_LEVEL=info\nOPENAI_API_KEY=sk-canary-6\nGROQ_API_KEY=gsk-canary-7\n", BEFORE)
    after = read(tmp_path, "OPENAI_API_KEY=sk-canary-8\nBIG_MODEL=demo/demo\nGROQ_API_KEY=gsk-canary-7\n", AFTER)
    changes = list_changes(before, after)
    assert changes == {
        "LOG_LEVEL": ("info", None),
        "OPENAI_API_KEY": ("set", "changed"),
        "BIG_MODEL": (None, "demo/demo"),
        '[managed_settings."*"] apiKeyHelper': ("set", "changed"),
        '[managed_settings."contractors"] model': ("set", None),
        "inspector secrets": ("set", "changed"),
        "inspector cards": (None, "set"),
        "route first": ("set", "changed"),
        "providers.box": ("set", "changed"),
        "sign_in": ("set", "changed"),
    }
    assert "canary" not in repr((changes, digest_values(before), digest_values(after)))


def test_the_same_settings_have_no_changes_and_the_same_digests(tmp_path: Path) -> None:
    first, second = (read(tmp_path, "LOG_LEVEL=info\nPROXY_API_KEY=key-canary-of-team\n", BEFORE) for _ in range(2))
    assert list_changes(first, second) == {}
    assert digest_values(first) == digest_values(second)


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ('[auto_mode]\ndeny = ["a, b"]', '[auto_mode]\ndeny = ["a", "b"]', ('"a, b"', "a, b")),
        ('[auto_mode]\ndeny = ["a\\", \\"b"]', '[auto_mode]\ndeny = ["a", "b"]', (r'"a\", \"b"', "a, b")),
        ('[auto_mode]\ndeny = ["a "]', '[auto_mode]\ndeny = ["a"]', ('"a "', "a")),
        ("[auto_mode]\ntimeout = 86399.75", "[auto_mode]\ntimeout = 86400", ("86399.75", "86400")),
        ('[sign_in]\nadmins = ["a,b"]', '[sign_in]\nadmins = ["a", "b"]', ('"a,b"', "a, b")),
    ],
)
def test_different_values_of_a_field_have_different_texts_and_digests(
    tmp_path: Path, before: str, after: str, shown: tuple[str, str]
) -> None:
    old, new = read(tmp_path, "", before), read(tmp_path, "", after)
    (values,) = list_changes(old, new).values()
    assert values == shown
    assert digest_values(old) != digest_values(new)


def test_digests_differ_by_value_and_leave_out_the_address_of_a_server(tmp_path: Path) -> None:
    first = digest_values(read(tmp_path, "PORT=1\nLOG_LEVEL=info\nPROXY_API_KEY=key-canary-of-team\n", BEFORE))
    second = digest_values(read(tmp_path, "PORT=2\nLOG_LEVEL=info\nPROXY_API_KEY=key-canary-of-work\n", AFTER))
    assert "PORT" not in first
    different = [name for name, value in first.items() if second[name] != value]
    assert different == ["PROXY_API_KEY", "inspectors", "managed_settings", "providers.box", "routes", "sign_in"]

"""Names of models: each name that a server may list can be written in the settings, with and without a prefix."""

from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.providers.model_ids import is_model_name, read_model_id


@given(st.text(alphabet="ab/\\.:@~#- ,\n", max_size=12))
def test_each_listed_name_is_one_that_the_settings_accept(text: str) -> None:
    name = read_model_id(text)
    if name is not None:
        assert is_model_name(name)
        assert is_model_name(f"my/{name}")


def test_names_are_paths_too_and_a_prefix_alone_is_none() -> None:
    paths = ["/models/qwen3.gguf", "/models/qwen/", "models/qwen", "C:\\models\\qwen.gguf", "openai/gpt-4.1", "gpt-4.1"]
    assert [name for name in paths if not (is_model_name(name) and is_model_name(f"my/{name}"))] == []
    assert [name for name in ("", "/", "//", "openai/", "openai//", "a b", "a,b", "a\n") if is_model_name(name)] == []

from anthropic_proxy.gateway.settings.config_file import find_key_lines

TEXT = '''\
#:schema ./schema.json
title = "one"  # a comment

[providers.vllm]
base_url = "http://a"
text = """
[not.a.table]
key = 1
"""
list = [
  "a",  # ]
  "b",
]
[ providers . "q.x" ]  # spaces and quotes
dialect.effort = "low"
inline = { first = 1, second = { third = 2 } }

[[many]]
x = 1
'''


def test_lines_of_headers_and_keys() -> None:
    assert find_key_lines(TEXT) == {
        ("title",): 2,
        ("providers",): 4,
        ("providers", "vllm"): 4,
        ("providers", "vllm", "base_url"): 5,
        ("providers", "vllm", "text"): 6,
        ("providers", "vllm", "list"): 10,
        ("providers", "q.x"): 14,
        ("providers", "q.x", "dialect"): 15,
        ("providers", "q.x", "dialect", "effort"): 15,
        ("providers", "q.x", "inline"): 16,
        ("providers", "q.x", "inline", "first"): 16,
        ("providers", "q.x", "inline", "second"): 16,
        ("providers", "q.x", "inline", "second", "third"): 16,
        ("many",): 18,
        ("many[0]",): 18,
        ("many[0]", "x"): 19,
    }


def test_an_empty_text_has_no_keys() -> None:
    assert find_key_lines("\n# nothing\n") == {}

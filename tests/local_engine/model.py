"""A model of two layers and random weights, as a GGUF file of half a megabyte."""

from pathlib import Path
from string import ascii_lowercase

import gguf  # type: ignore[import-not-found]  # scripts/ci.py engine has both
import numpy as np  # type: ignore[import-not-found]

WINDOW = 16_384
"""Tokens; a byte of a prompt is about one."""
_END = 2
"""Number of the token that ends a reply."""
_WIDTH, _INNER, _LAYERS, _HEADS = 64, 128, 2, 4
_TEMPLATE = """\
{%- if tools %}
{{- "<|im_start|>system\\nTools:\\n" }}
{%- for tool in tools %}{{- tool | tojson }}{{- "\\n" }}{%- endfor %}
{{- 'Call one so: <tool_call>\\n{"name": "its name", "arguments": {}}\\n</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- "<|im_start|>" + message.role + "\\n" }}
{%- if message.content %}{{- message.content }}{%- endif %}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}
{{- "}\\n</tool_call>" }}
{%- endfor %}
{{- "<|im_end|>\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|im_start|>assistant\\n" }}{%- endif %}
"""
"""The template of a conversation, with calls as several families of models write them: the engine reads them back."""
_WORDS = ("▁", "▁the", "▁a", "▁is", "▁of", "er", "in", "on", *ascii_lowercase)


def write_model(file: Path, window: int = WINDOW, *, ends: bool = False) -> None:
    """Write the model; the same numbers every time. `ends`: it ends its replies by itself, after some words."""
    writer = gguf.GGUFWriter(file, "llama")
    words = _write_vocabulary(writer)
    writer.add_name("tiny")
    writer.add_context_length(window)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_chat_template(_TEMPLATE)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _write_tensors(writer, words, ends=ends)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_vocabulary(writer: gguf.GGUFWriter) -> int:
    """Write the tokens: three marks, every byte, a few words. Return where the words begin."""
    marks = [b"<unk>", b"<s>", b"</s>"]
    pieces = [b"<0x%02X>" % number for number in range(256)]
    tokens = [*marks, *pieces, *(word.encode() for word in _WORDS)]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * len(pieces) + [gguf.TokenType.NORMAL] * len(_WORDS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(place) for place in range(len(tokens))])
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    return len(marks) + len(pieces)


def _write_tensors(writer: gguf.GGUFWriter, words: int, *, ends: bool) -> None:
    chance = np.random.default_rng(5)

    def random(*shape: int) -> np.ndarray:
        return (chance.standard_normal(shape) * 0.3).astype(np.float32)

    count = words + len(_WORDS)
    output = random(count, _WIDTH)
    silent = [number for number in range(words) if not (ends and number == _END)]
    output[silent] = 0  # it writes words, and never ends by itself unless a grammar makes it
    ones = np.ones(_WIDTH, np.float32)
    writer.add_tensor("token_embd.weight", random(count, _WIDTH))
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", output)
    for layer in range(_LAYERS):
        start = f"blk.{layer}."
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{start}{name}.weight", ones)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{start}{name}.weight", random(_WIDTH, _WIDTH))
        for name, shape in (
            ("ffn_gate", (_INNER, _WIDTH)),
            ("ffn_up", (_INNER, _WIDTH)),
            ("ffn_down", (_WIDTH, _INNER)),
        ):
            writer.add_tensor(f"{start}{name}.weight", random(*shape))

"""`python -m bench.conformance.vllm_server MODEL PORT`: vLLM's server with a model of two layers and random weights.

Its tokens are the 256 bytes. A model that does not exist is written.
"""

import os
import sys
from pathlib import Path

import tokenizers  # type: ignore[import-not-found]  # the peer's installation has all of them
import torch  # type: ignore[import-not-found]
import transformers  # type: ignore[import-not-found]

_WINDOW = 131_072
"""Tokens; Claude Code asks for 64,000. The model ends by itself after some hundred."""
_TEMPLATE = """\
{%- for tool in tools or [] %}{{- tool | tojson }}{%- endfor %}
{%- for message in messages %}
{{- '<' + message.role + '>' }}{%- if message.content %}{{- message.content }}{%- endif %}
{%- for call in message.tool_calls or [] %}{{- call.function | tojson }}{%- endfor %}
{%- endfor %}
{%- if add_generation_prompt %}<assistant>{%- endif %}
"""


def write_model(folder: Path) -> None:
    """Write the model and its tokenizer; the same numbers every time."""
    marks = ["<unk>", "<s>", "</s>"]
    pieces = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens = {token: number for number, token in enumerate([*marks, *sorted(pieces.alphabet())])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=tokens, merges=[], unk_token=marks[0]))
    tokenizer.pre_tokenizer = pieces
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    names = dict(zip(("unk_token", "bos_token", "eos_token"), marks, strict=True))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.chat_template = _TEMPLATE
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=_WINDOW,
        bos_token_id=1,
        eos_token_id=2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)


def main(model: str, port: str) -> None:
    """Become the server."""
    if not Path(model).exists():
        write_model(Path(model))
    words = ["-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", port]
    words += ["--model", model, "--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager"]
    words += ["--max-model-len", str(_WINDOW), "--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    os.execv(sys.executable, [sys.executable, *words])


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Facts about models that the command `doctor` has observed, and their file in the user's data directory.

A `LearnedModel` has the facts about one model at one server, because limits may differ between servers.
`LearnedModel.apply` replaces values of `models.toml` by these facts. `load_learned_models` reads the file and returns
warnings about it. `store_learned_models` writes the file.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.json_decoding import InvalidJson, decode_json
from anthropic_proxy.platforms.file_lock import locked_folder
from anthropic_proxy.routing.catalog.table import ModelCapabilities

FILE_NAME = "learned-models.json"
"""Name of the file with the learned facts, in the data directory of the user."""
MAX_AGE_DAYS = 90
"""Age in days above which a fact is ignored, because servers change their settings and the models behind a name."""
_VERSION = 1
_REMEDY = "Run  anthropic-proxy doctor  to write it again."


class LearnedModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits and features of one model at one server, as the command `doctor` has observed them."""

    server: str
    """Provider and host: `openai api.openai.com`."""
    model: str
    """Model id at the server, without prefix."""
    observed_on: date
    """Date on which the command `doctor` made the observation."""
    evidence: str
    """Text of the server, or the observation, from which the values were read. It contains no keys."""
    context_window: int | None = None
    """Maximum tokens of input and output together. None: not observed."""
    max_output: int | None = None
    """Maximum tokens of one reply. None: not observed."""
    accepts_images: bool | None = None
    """True if the server accepted an image, False if it rejected one. None: not observed."""
    efforts: tuple[str, ...] = ()
    """Levels of reasoning effort that the server accepted: `low`, `high`. Empty: not observed."""

    def apply(self, capabilities: ModelCapabilities) -> ModelCapabilities:
        """Return the limits and features of the model, with the observed values in place of those in `capabilities`."""
        changes: dict[str, object] = {}
        if self.context_window is not None:
            known_output = capabilities.max_output if capabilities.known else self.context_window
            changes["context_window"] = self.context_window
            changes["max_output"] = min(self.max_output or known_output, self.context_window)
            changes["accepts_images"] = capabilities.accepts_images or not capabilities.known
            changes["known"] = True
        elif self.max_output is not None:
            changes["max_output_from_error"] = self.max_output
        if self.accepts_images is not None:
            changes["accepts_images"] = self.accepts_images
            changes["rejects_images"] = not self.accepts_images
        if self.efforts:
            changes["efforts"] = self.efforts
        return structs.replace(capabilities, **changes)


LearnedModels = Mapping[tuple[str, str], LearnedModel]
"""Mapping from server and model to the observed facts."""


class _File(Struct, kw_only=True):
    version: int
    models: list[LearnedModel]


def load_learned_models(directory: Path | None, today: date) -> tuple[LearnedModels, Sequence[str]]:
    """Return the facts in the file that are at most `MAX_AGE_DAYS` old, and warnings for the log."""
    if directory is None:
        return {}, ()
    file = directory / FILE_NAME
    try:
        content = decode_json(file.read_bytes(), _File)
    except FileNotFoundError:
        return {}, ()
    except OSError as error:
        return {}, (f"{file} cannot be read and is ignored ({error.strerror}). {_REMEDY}",)
    except InvalidJson as error:
        return {}, (f"{file} is not valid and is ignored ({error}). {_REMEDY}",)
    if content.version != _VERSION:
        return {}, (f"{file} has the version {content.version} and is ignored. {_REMEDY}",)
    recent = [learned for learned in content.models if (today - learned.observed_on).days <= MAX_AGE_DAYS]
    warnings = []
    if old := len(content.models) - len(recent):
        noun = "model, which is" if old == 1 else "models, which are"
        warnings.append(
            f"{file} has facts about {old} {noun} ignored because they are older than {MAX_AGE_DAYS} days. {_REMEDY}"
        )
    return {(learned.server, learned.model): learned for learned in recent}, warnings


def store_learned_models(directory: Path, models: Sequence[LearnedModel], today: date) -> Path:
    """Add facts about models to the file in the data directory, and return its path.

    Outdated facts are replaced or removed. Raises `TimeoutError` if another run holds the lock of the directory too
    long, and `OSError` if the file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / FILE_NAME
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    with locked_folder(directory):  # another run may store its facts at the same time
        known, _ = load_learned_models(directory, today)
        merged = {**known, **{(learned.server, learned.model): learned for learned in models}}
        content = _File(version=_VERSION, models=sorted(merged.values(), key=lambda one: (one.server, one.model)))
        try:
            temporary.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
            temporary.replace(file)
        finally:
            with suppress(OSError):
                temporary.unlink()
    return file

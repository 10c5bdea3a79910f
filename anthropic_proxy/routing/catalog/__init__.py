"""Model catalog: the limits and features (capabilities) of backend models.

`table` reads them from `models.toml`, and `ollama` queries an Ollama server. `learned` stores those that the command
`doctor` has observed. `catalog` caches the results.
"""

from anthropic_proxy.routing.catalog.catalog import Catalog, ModelSource, OllamaModelSource, build_catalog
from anthropic_proxy.routing.catalog.learned import (
    LearnedModel,
    LearnedModels,
    load_learned_models,
    store_learned_models,
)
from anthropic_proxy.routing.catalog.table import ModelCapabilities

__all__ = [
    "Catalog",
    "LearnedModel",
    "LearnedModels",
    "ModelCapabilities",
    "ModelSource",
    "OllamaModelSource",
    "build_catalog",
    "load_learned_models",
    "store_learned_models",
]

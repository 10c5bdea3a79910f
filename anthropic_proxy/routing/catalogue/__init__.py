"""What is known about models: windows, limits, abilities.

`facts` says what that is, `table` reads `models.toml`, `ollama` asks a server what it has, `catalogue` keeps it all.
"""

from anthropic_proxy.routing.catalogue.catalogue import Catalogue, ModelSource, load_catalogue
from anthropic_proxy.routing.catalogue.facts import ModelFacts
from anthropic_proxy.routing.catalogue.ollama import OllamaModels

__all__ = ["Catalogue", "ModelFacts", "ModelSource", "OllamaModels", "load_catalogue"]

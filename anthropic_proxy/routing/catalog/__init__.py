"""Capabilities of backend models: context windows, output limits, features.

`table` defines the fields and reads `models.toml`, `ollama` queries an Ollama server, `catalog` caches the results.
"""

from anthropic_proxy.routing.catalog.catalog import Catalog, ModelListing, load_catalog
from anthropic_proxy.routing.catalog.ollama import OllamaListing
from anthropic_proxy.routing.catalog.table import ModelCapabilities

__all__ = ["Catalog", "ModelCapabilities", "ModelListing", "OllamaListing", "load_catalog"]

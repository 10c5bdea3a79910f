"""Prices of models: from the package `genai-prices`, its updates, and the tables `[prices]`."""

"""Reading of PDF documents, for models that accept none."""

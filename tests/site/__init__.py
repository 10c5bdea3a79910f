"""The documentation site and its generated pages. `python -m tests.site` compares the pages with the code."""

"""The doctor examines the configured providers by test requests, for the command `doctor` and the page Providers."""

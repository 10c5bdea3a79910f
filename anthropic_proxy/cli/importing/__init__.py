"""Readers of other projects' configurations for the command `import`, and the writer of this project's files.

`detection` selects the reader of a file. Each reader returns an `ImportPlan`. `writing` adds its lines to the files.
"""

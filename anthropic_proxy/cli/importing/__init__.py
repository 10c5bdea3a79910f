"""Import of the configuration of other projects, for the command `import`.

`detection` selects the reader of a file. Each reader returns an `ImportPlan`, the settings to write. `writing` adds
them to the files.
"""

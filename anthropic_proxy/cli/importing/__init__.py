"""Import of the configuration of another proxy, for the command `import`.

`detection` recognizes the format of the file and calls the reader for it. The reader returns an `ImportPlan`, the
settings that this proxy needs. `writing` adds these settings to the files.
"""

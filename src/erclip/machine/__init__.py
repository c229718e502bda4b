"""The machine under the package: files and locks, terminal, processes, signals, users' code."""

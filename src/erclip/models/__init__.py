"""Small models made on the spot: warmed up on a task, or unpacked from a Python package."""

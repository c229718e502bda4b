"""The two files are read by type checkers, not run."""

collect_ignore = ["bad.py", "good.py"]

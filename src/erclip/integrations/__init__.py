"""Adapters that bring the losses into other trainers; each needs its own extra."""

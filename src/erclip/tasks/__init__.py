"""Where prompts come from: the embedded task, files, hub data sets, reasoning-gym, plugins."""

from erclip.tasks.base import Task, Wording, hash_split
from erclip.tasks.load import load_task

__all__ = ["Task", "Wording", "hash_split", "load_task"]

"""metrics.jsonl → trackio, wandb, tensorboard, mlflow, on threads of their own."""

from erclip.runs.trackers.base import RunInfo, Tracker, tracked
from erclip.runs.trackers.tracking import Observers, Tracking

__all__ = ["Observers", "RunInfo", "Tracker", "Tracking", "tracked"]

"""What was there before a run is left alone by the collector, and only while the run goes on."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import pytest

from erclip.config.recipes import load_recipe
from erclip.machine.collector import old_objects_skipped
from erclip.training.trainer import Trainer


class Knot:
    """Garbage that only the collector finds."""

    def __init__(self):
        self.own = self


def test_only_new_garbage_is_found_until_the_end():
    old = Knot()
    gone = weakref.ref(old)
    with old_objects_skipped():
        del old
        new = weakref.ref(Knot())
        gc.collect()
        assert new() is None
        assert gone() is not None
    gc.collect()
    assert gone() is None


def test_an_error_thaws():
    old = Knot()
    gone = weakref.ref(old)
    with pytest.raises(ValueError, match="stop"), old_objects_skipped():
        raise ValueError("stop")
    del old
    gc.collect()
    assert gone() is None


def test_a_run_does_so(tmp_path):
    old = [Knot()]
    gone, seen = weakref.ref(old[0]), []

    def on_log(kind, rollout, metrics):
        old.clear()
        gc.collect()
        seen.append(gone() is not None)

    settings = ["trainer.rollouts=1", "rollout.prompts=8", "eval.prompts=1"]
    watch = SimpleNamespace(on_log=on_log)
    Trainer(load_recipe("quickstart", settings), tmp_path / "run", watch).train()
    assert seen
    assert all(seen)
    gc.collect()
    assert gone() is None

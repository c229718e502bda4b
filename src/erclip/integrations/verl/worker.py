"""What verl's workers import, because `actor_rollout_ref.model.external_lib` names this module.

verl imports it before it builds an engine, and an error here ends the run, whereas an error in one
of verl's plugin entry points is logged at DEBUG and forgotten.
"""

from __future__ import annotations

import os

from erclip.integrations.verl import require_verl

require_verl()

from erclip.integrations.verl import engine, loss

loss.register()
os.environ["VERL_ENGINE_VENDOR"] = engine.VENDOR  # EngineRegistry prefers it; others fall back

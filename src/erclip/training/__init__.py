"""Prompts → a better policy: rollouts, batches, policy, updates, checkpoints, the loop."""

from erclip.extras import stand_on

stand_on("train", "erclip.training")

"""Mistakes that an editor must underline; each line says which rule of a checker names it."""

from __future__ import annotations

import torch

import erclip
from erclip import LossFn, entropy_ratio_clip, policy_loss, ppo_clip

one = torch.ones(1, 2)
loss_fn: LossFn = policy_loss(ppo_clip())
loss_fn(logprob=one, old_logprobs=one, advantages=one, mask=one.bool())  # wrong: logprob
loss_fn(logprobs=one, old_logprobs=one, advantages=one, masks=one.bool())  # wrong: masks
loss_fn(one, one, one, one.bool())  # wrong: positional
loss_fn(logprobs=one, old_logprobs=one, advantages=one)  # wrong: no mask
out = loss_fn(logprobs=one, old_logprobs=one, advantages=one, mask=one.bool())
print(out.clip)  # wrong: clip
policy_loss(ppo_clip())(logprobs=one, old_logprobs=one, advantages=one, mask=one, h=one)  # wrong: h
ppo_clip(lo=0.2)  # wrong: lo
ppo_clip(anchor="olld")  # wrong: olld
entropy_ratio_clip(rule="directed")  # wrong: directed
ppo_clip().low = 0.3  # wrong: frozen
policy_loss(entropy_ratio_clip())  # wrong: a constraint is no surrogate
policy_loss(ppo_clip(), [ppo_clip()])  # wrong: a surrogate is no constraint
policy_loss(ppo_clip(), terms=[entropy_ratio_clip()])  # wrong: a constraint is no term
erclip.pppo_clip()  # wrong: pppo_clip

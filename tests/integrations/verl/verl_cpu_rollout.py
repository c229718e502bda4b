"""The rollout engine of the CPU runs, their reward, and a probe of what each update was given.

Part of `actor_rollout_ref.model.external_lib` there, hence imported by the trainer and its workers.
"""

from __future__ import annotations

import os
from pathlib import Path

import ray
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from verl.workers.rollout import base
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

from erclip.integrations.verl.engine import ERCEngine

CAPTURE = "ERCLIP_VERL_CAPTURE"


@ray.remote(num_cpus=0)
class Server:
    """Samples token by token, without a cache; the weights are those that were sent last."""

    def __init__(self, path, max_tokens, seed):
        self.model = AutoModelForCausalLM.from_pretrained(path).eval()
        self.max_tokens, self.steps = max_tokens, 0
        self.generator = torch.Generator().manual_seed(seed)

    def set_weights(self, weights, steps):
        self.model.load_state_dict(weights)
        self.steps = steps

    @torch.no_grad()
    def generate(self, request_id, prompt_ids, sampling_params, **_):
        tokens, logprobs = list(prompt_ids), []
        while len(logprobs) < self.max_tokens:
            logits = self.model(torch.tensor([tokens])).logits[0, -1]
            log_p = (logits / sampling_params["temperature"]).log_softmax(-1)
            token = int(torch.multinomial(log_p.exp(), 1, generator=self.generator))
            tokens.append(token)
            logprobs.append(float(log_p[token]))
            if token == self.model.config.eos_token_id:
                break
        return TokenOutput(
            token_ids=tokens[len(prompt_ids) :],
            log_probs=logprobs,
            stop_reason="completed",
            extra_fields={"global_steps": self.steps},
        )

    def nothing(self, *_, **__):
        return None

    wake_up = sleep = clear_kv_cache = abort_all_requests = resume_generation = nothing


class CPUReplica(RolloutReplica):
    async def launch_servers(self):
        seed = 100 + self.replica_rank
        self._server_handle = Server.options(name=f"server_{self.replica_rank}").remote(
            self.model_config.path, self.config.response_length, seed
        )
        self._server_address = f"server_{self.replica_rank}"
        self.servers = [self._server_handle]


class CPURollout(base.BaseRollout):
    """The worker's side: one server per rank."""

    async def resume(self, tags):
        return None

    async def release(self):
        return None

    async def update_weights(self, weights, global_steps=None, **_):
        state = {name: weight.detach().clone() for name, weight in weights}  # all ranks gather
        server = ray.get_actor(f"server_{torch.distributed.get_rank()}")
        await server.set_weights.remote(state, global_steps)


RolloutReplicaRegistry.register("cpu", lambda: CPUReplica)
base._ROLLOUT_REGISTRY["cpu", "async"] = f"{__name__}.CPURollout"


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    """Decided by the text alone, and different within nearly every group."""
    return float(sum(map(ord, solution_str)) % 2)


def _capture(train_batch):
    """Write what reaches an update, as rows of a padded rectangle, before it is used."""

    def wrapped(self, data, loss_function):
        folder = Path(os.environ[CAPTURE])
        rank = torch.distributed.get_rank()
        number = len(list(folder.glob(f"{rank}_*.safetensors")))
        tensors = {}
        for name in ("prompts", "responses", "response_mask", "advantages", "old_log_probs"):
            tensors[name] = data[name].to_padded_tensor(0)
            tensors[f"{name}_length"] = data[name].offsets().diff()
        tensors["entropy"] = data["entropy"].to_padded_tensor(0.0)
        tensors["scores"] = data["rm_scores"].to_padded_tensor(0.0).sum(-1)
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            folder / f"{rank}_{number:03d}.safetensors",
            metadata={"node": ray.get_runtime_context().get_node_id()},
        )
        return train_batch(self, data, loss_function)

    return wrapped


if os.environ.get(CAPTURE):
    ERCEngine.train_batch = _capture(ERCEngine.train_batch)

"""One rank of a launched run: deterministic responses, so that ranks only share the work.

Arguments: output folder, number of ranks, dynamic sampling.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from datasets import Dataset
from safetensors.torch import save_file

from erclip.embedded import embedded_model_dir
from erclip.integrations.trl import ERCConfig, ERCTrainer

PROMPTS = Dataset.from_list(
    [
        {"prompt": [{"role": "user", "content": f"{a} {b} 5={a + b}"}]}
        for a in (1, 2, 3)
        for b in (7, 9)
    ]
)


def reward(completion_ids, **_):
    return [float(sum(ids) % 7 < 2) for ids in completion_ids]


class Rigged(ERCTrainer):
    """Draws row i of round k from a generator of its own, on whatever rank row i lies."""

    rounds = 0

    def _generate_single_turn(self, prompt_ids, *_, **__):
        self.rounds += 1
        first = self.accelerator.process_index * len(prompt_ids)
        rows = []
        for row in range(first, first + len(prompt_ids)):
            rng = random.Random(f"{self.rounds}/{row}")
            rows.append([rng.randrange(2, 20) for _ in range(rng.randrange(3, 11))])
        return rows, None


def main(folder: Path, ranks: int, dynamic_sampling: str) -> None:
    args = ERCConfig(
        str(folder),
        max_steps=6,
        per_device_train_batch_size=16 // ranks,
        gradient_accumulation_steps=2,
        steps_per_generation=2,
        num_iterations=3,
        num_generations=8,
        max_completion_length=12,
        learning_rate=2e-3,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=1e9,
        logging_steps=1,
        bf16=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        gradient_checkpointing=False,
        disable_tqdm=True,
        loss={
            "surrogate": {"kind": "ppo_clip", "dual": 10.0},
            "constraints": ["entropy_ratio_clip"],
        },
        dynamic_sampling=dynamic_sampling,
    )
    trainer = Rigged(str(embedded_model_dir()), reward, args, PROMPTS)
    trainer.train()
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.accelerator.is_main_process:
        save_file({k: v.contiguous() for k, v in weights.items()}, folder / "weights.safetensors")
        (folder / "history.json").write_text(json.dumps(trainer.state.log_history))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])

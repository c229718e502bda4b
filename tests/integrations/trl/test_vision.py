"""A vision-language model through our head: log-probs and entropies of its own logits."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from erclip.integrations.hf.head import add_scoring_head, why_no_head

SMALL = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
IMAGE = 19


def llava():
    text = LlamaConfig(
        vocab_size=24, num_hidden_layers=2, num_key_value_heads=2, initializer_range=0.3, **SMALL
    )
    vision = CLIPVisionConfig(image_size=8, patch_size=4, num_hidden_layers=2, **SMALL)
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
    )
    return model, {"pixel_values": torch.randn(2, 3, 8, 8)}


def qwen2_vl():
    text = {
        "vocab_size": 24, "num_hidden_layers": 2, "num_key_value_heads": 2,
        "initializer_range": 0.3, **SMALL,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
    }  # fmt: skip
    vision = {
        "depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 4,
        "mlp_ratio": 1,
    }  # fmt: skip
    config = Qwen2VLConfig(
        text_config=text, vision_config=vision, image_token_id=IMAGE, vision_start_token_id=18
    )
    images = {
        "pixel_values": torch.randn(2 * 16, 3 * 2 * 4 * 4),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * 2),
        "mm_token_type_ids": torch.zeros(2, 10, dtype=torch.long).index_fill(1, torch.arange(4), 1),
    }
    return Qwen2VLForConditionalGeneration(config), images


@pytest.mark.parametrize("make", [llava, qwen2_vl])
def test_images_reach_the_head(make):
    torch.manual_seed(0)
    model, images = make()
    model.eval()
    ids = torch.randint(0, 18, (2, 10))
    ids[:, :4] = IMAGE
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        logits = model(**inputs, **images).logits[:, 5:-1].double()
        assert why_no_head(model) is None
        add_scoring_head(model)
        mask = torch.ones(2, 4, dtype=torch.bool)
        got = model(**inputs, **images, score=(ids[:, -4:], mask))
        without = {name: torch.zeros_like(value) for name, value in images.items()}
        without = {**images, "pixel_values": without["pixel_values"]}
        blind = model(**inputs, **without, score=(ids[:, -4:], mask))
    want = logits.log_softmax(-1)
    torch.testing.assert_close(
        got.logprobs.double(), want.gather(2, ids[:, -4:, None])[..., 0], rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        got.entropies.double(), -(want.exp() * want).sum(-1), rtol=0, atol=1e-5
    )
    assert (got.logprobs - blind.logprobs).abs().max() > 1e-3  # they see

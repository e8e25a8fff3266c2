from __future__ import annotations

import pytest

from trainer.networks.naming import block_of, group_name, ldm_unet_path

SD1_LEVELS = (False, True, True, True)
SDXL_LEVELS = (True, True, False)


@pytest.mark.parametrize(
    ("path", "ldm", "block"),
    [
        # facts/formats.md F.1, and A.6 for the block numbers
        ("down_blocks.0.attentions.0.proj_in", "input_blocks.1.1.proj_in", "IN01"),
        ("down_blocks.0.resnets.1.conv1", "input_blocks.2.0.in_layers.2", "IN02"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op", "IN03"),
        ("down_blocks.2.attentions.1.proj_out", "input_blocks.8.1.proj_out", "IN08"),
        ("down_blocks.3.resnets.1.time_emb_proj", "input_blocks.11.0.emb_layers.1", "IN11"),
        ("mid_block.resnets.0.conv2", "middle_block.0.out_layers.3", "M00"),
        ("mid_block.attentions.0.proj_in", "middle_block.1.proj_in", "M00"),
        ("mid_block.resnets.1.conv2", "middle_block.2.out_layers.3", "M00"),
        ("up_blocks.0.resnets.0.conv_shortcut", "output_blocks.0.0.skip_connection", "OUT00"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.1.conv", "OUT02"),
        ("up_blocks.1.upsamplers.0.conv", "output_blocks.5.2.conv", "OUT05"),
        ("up_blocks.3.attentions.2.proj_in", "output_blocks.11.1.proj_in", "OUT11"),
        ("up_blocks.1.resnets.2.norm1", "output_blocks.5.0.in_layers.0", "OUT05"),
        ("up_blocks.1.resnets.2.norm2", "output_blocks.5.0.out_layers.0", "OUT05"),
        (
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
            "input_blocks.4.1.transformer_blocks.0.attn1.to_out.0",
            "IN04",
        ),
    ],
)
def test_paths_and_blocks_follow_the_table(path: str, ldm: str, block: str) -> None:
    assert ldm_unet_path(path, SD1_LEVELS) == ldm
    assert block_of(path) == block
    assert block_of(ldm) == block
    assert block_of(group_name("lora_unet", path)) == block
    assert block_of(group_name("lora_unet", ldm)) == block


def test_sdxl_upsamplers_follow_an_attention() -> None:
    first = ldm_unet_path("up_blocks.0.upsamplers.0.conv", SDXL_LEVELS)
    second = ldm_unet_path("up_blocks.1.upsamplers.0.conv", SDXL_LEVELS)
    assert (first, second) == ("output_blocks.2.2.conv", "output_blocks.5.2.conv")


@pytest.mark.parametrize("name", ["conv_in", "time_embedding.linear_1", "lora_unet_conv_out"])
def test_what_lies_in_no_block_has_none(name: str) -> None:
    assert block_of(name) is None


def test_text_encoders_are_base() -> None:
    names = ("lora_te_text_model_encoder_layers_0_mlp_fc1", "lora_te2_text_model_encoder_layers_0")
    assert [block_of(name) for name in names] == ["BASE", "BASE"]


def test_a_path_outside_the_layout_has_no_ldm_name() -> None:
    with pytest.raises(KeyError, match="other.layer"):
        ldm_unet_path("other.layer", SD1_LEVELS)

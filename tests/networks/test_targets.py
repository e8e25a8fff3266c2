from __future__ import annotations

import pytest

from tests.networks.small_models import Model
from trainer.errors import BadInput
from trainer.networks.targets import find_targets
from trainer.settings.groups import BLOCKS

UNET_BLOCKS = tuple(block for block in BLOCKS if block != "BASE")


@pytest.mark.parametrize(
    ("family", "convolutions", "unet", "text_encoders"),
    [
        # facts/formats.md A.1, counted in sd-scripts' own modules
        ("sd1", False, 192, 72),
        ("sd1", True, 278, 72),
        ("sd2", False, 192, 138),
        ("sd2", True, 278, 138),
        ("sdxl", False, 722, 72 + 192),
        ("sdxl", True, 788, 72 + 192),
    ],
)
def test_full_size_counts(
    full_models: dict[str, Model], family: str, convolutions: bool, unet: int, text_encoders: int
) -> None:
    targets = full_models[family].targets(convolutions)
    base = [target for target in targets if target.block == "BASE"]
    assert (len(targets) - len(base), len(base)) == (unet, text_encoders)
    names = {name for target in targets for name in (target.name, *target.aliases)}
    assert len(names) == 2 * unet + text_encoders
    assert len({id(target.module) for target in targets}) == len(targets)


@pytest.mark.parametrize(
    ("family", "names"),
    [
        (
            "sd1",
            (
                "lora_unet_down_blocks_0_attentions_0_proj_in",
                "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
                "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0",
                "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_0_proj",
                "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_2",
                "lora_unet_down_blocks_0_resnets_0_conv1",
                "lora_unet_down_blocks_0_resnets_0_time_emb_proj",
                "lora_unet_down_blocks_1_resnets_0_conv_shortcut",
                "lora_unet_down_blocks_0_downsamplers_0_conv",
                "lora_unet_up_blocks_0_upsamplers_0_conv",
                "lora_te_text_model_encoder_layers_11_self_attn_out_proj",
                "lora_te_text_model_encoder_layers_0_mlp_fc1",
            ),
        ),
        (
            "sdxl",
            (
                "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
                "lora_unet_middle_block_1_transformer_blocks_9_ff_net_2",
                "lora_unet_output_blocks_0_1_proj_in",
                "lora_unet_input_blocks_1_0_in_layers_2",
                "lora_unet_input_blocks_1_0_emb_layers_1",
                "lora_unet_input_blocks_1_0_out_layers_3",
                "lora_unet_input_blocks_4_0_skip_connection",
                "lora_unet_input_blocks_3_0_op",
                "lora_unet_output_blocks_2_2_conv",
                "lora_te1_text_model_encoder_layers_11_mlp_fc2",
                "lora_te2_text_model_encoder_layers_31_self_attn_q_proj",
            ),
        ),
    ],
)
def test_names_are_those_of_the_format(
    full_models: dict[str, Model], family: str, names: tuple[str, ...]
) -> None:
    found = {target.name for target in full_models[family].targets(convolutions=True)}
    assert found.issuperset(names)


def test_the_other_style_is_an_alias(full_models: dict[str, Model]) -> None:
    sd1, sdxl = (full_models[family].targets() for family in ("sd1", "sdxl"))
    sd1_aliases = {alias for target in sd1 for alias in target.aliases}
    sdxl_aliases = {alias for target in sdxl for alias in target.aliases}
    assert "lora_unet_input_blocks_1_1_proj_in" in sd1_aliases
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_9_ff_net_2" in sdxl_aliases


def test_blocks_of_sdxl_end_at_08(full_models: dict[str, Model]) -> None:
    blocks = {target.block for target in full_models["sdxl"].targets(convolutions=True)}
    inner = range(1, 9)
    outer = range(9)
    expected = {"BASE", "M00", *(f"IN0{i}" for i in inner), *(f"OUT0{i}" for i in outer)}
    assert blocks == expected


@pytest.mark.parametrize("block", ["IN01", "M00", "OUT03", "BASE"])
def test_one_block_alone(full_models: dict[str, Model], block: str) -> None:
    model = full_models["sd1"]
    chosen = model.targets(blocks=(block,))
    assert {target.block for target in chosen} == {block}
    assert len(chosen) == (72 if block == "BASE" else 12)


@pytest.mark.parametrize(
    ("element", "part", "count"),
    [
        ("CrossAttention", "attn2", 64),
        ("CrossAttentionKV", "attn2", 32),
        ("SelfAttention", "attn1", 64),
    ],
)
def test_element_narrows_the_unet_alone(
    full_models: dict[str, Model], element: str, part: str, count: int
) -> None:
    targets = full_models["sd1"].targets(convolutions=True, element=element)
    unet = [target.name for target in targets if target.block != "BASE"]
    # 16 transformers with to_q, to_k, to_v and to_out each; the first two follow the picture
    assert len(unet) == count
    assert element != "CrossAttentionKV" or all(name[-4:] in ("to_k", "to_v") for name in unet)
    assert all(f"_{part}_to_" in name for name in unet)
    assert len(targets) - len(unet) == 72


def test_without_base_the_text_encoder_stays_out(full_models: dict[str, Model]) -> None:
    targets = full_models["sd1"].targets(blocks=UNET_BLOCKS)
    assert all(target.name.startswith("lora_unet_") for target in targets)


def test_no_text_encoder_to_train_is_fine(full_models: dict[str, Model]) -> None:
    unet = full_models["sd1"].unet
    assert len(find_targets(unet, (), family="sd1", blocks=BLOCKS)) == 192


@pytest.mark.parametrize("blocks", [("IN00",), ("IN03",), ()])
def test_a_choice_without_layers_is_refused(
    full_models: dict[str, Model], blocks: tuple[str, ...]
) -> None:
    with pytest.raises(BadInput) as refused:
        full_models["sd1"].targets(blocks=blocks)
    assert [problem.where for problem in refused.value.problems] == ["blocks"]


def test_the_number_of_text_encoders_must_match(full_models: dict[str, Model]) -> None:
    model = full_models["sd1"]
    with pytest.raises(ValueError, match="zip"):
        find_targets(model.unet, model.text_encoders, family="sdxl", blocks=BLOCKS)

"""The assembled modules against diffusers' own conversion, and against the tensors given."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)

from tests.conftest import tiny_tensors
from tests.models.openclip import openclip_states
from tests.modules import END, FULL_UNETS, START, tiny_modules
from trainer.errors import BadInput
from trainer.models.assemble import (
    assemble_text_encoder,
    assemble_unet,
    assemble_vae,
    clip_config,
    unet_config,
)
from trainer.models.families import FAMILIES, SD1, SD2, SDXL, Family, TextEncoderRow
from trainer.models.ldm_names import UNET_PREFIX, VAE_PREFIX, openclip_name, unet_name, vae_name
from trainer.models.text import TextEncoder

every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
BIG_G, H = SDXL.text_encoders[1], SD2.text_encoders[0]


@pytest.fixture(scope="module")
def checkpoints() -> dict[str, dict[str, torch.Tensor]]:
    return {family.name: tiny_tensors(family, seed=3) for family in FAMILIES}


@pytest.fixture(scope="module")
def tensors(checkpoints) -> dict[str, torch.Tensor]:
    return checkpoints["sd1"]


@every_family
def test_every_parameter_shares_its_storage_with_the_checkpoint(family: Family, checkpoints):
    tensors = checkpoints[family.name]
    storages = {t.untyped_storage().data_ptr() for t in tensors.values()}
    for module in (
        assemble_unet(tensors, family),
        assemble_vae(tensors, family),
        *(assemble_text_encoder(tensors, row) for row in family.text_encoders),
    ):
        for name, parameter in module.named_parameters():
            assert parameter.untyped_storage().data_ptr() in storages, name
            assert not parameter.requires_grad
        assert not any(t.is_meta for t in module.state_dict().values())
        assert not module.training


@every_family
def test_unet_equals_diffusers_own_conversion(family: Family, checkpoints):
    tensors = checkpoints[family.name]
    ours = assemble_unet(tensors, family)
    config = dict(ours.config)
    theirs = UNet2DConditionModel.from_config(config)
    theirs.load_state_dict(convert_ldm_unet_checkpoint(dict(tensors), config=config))
    latents = torch.randn(2, 4, 16, 8)
    context = torch.randn(2, 77, ours.config.cross_attention_dim)
    told = {}
    if family is SDXL:
        sizes = torch.tensor([[64.0, 32, 0, 0, 64, 32]] * 2)
        told = {"added_cond_kwargs": {"text_embeds": torch.randn(2, 96), "time_ids": sizes}}
    timesteps = torch.tensor([10, 900])
    with torch.no_grad():
        expected = theirs.eval()(latents, timesteps, context, **told).sample
        found = ours(latents, timesteps, context, **told).sample
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_vae_equals_diffusers_own_conversion(tensors):
    ours = assemble_vae(tensors, SD1)
    config = dict(ours.config)
    theirs = AutoencoderKL.from_config(config)
    theirs.load_state_dict(convert_ldm_vae_checkpoint(dict(tensors), config=config))
    pixels = torch.rand(1, 3, 64, 128) * 2 - 1
    with torch.no_grad():
        expected = theirs.eval().encode(pixels).latent_dist.mean
        found = ours.encode(pixels).latent_dist.mean
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            ours.decode(found).sample, theirs.decode(expected).sample, atol=1e-5, rtol=0
        )


def test_latents_are_scaled_as_the_family_is_published():
    """Source: scale_factor of the published v1-inference, v2-inference-v and sd_xl_base configs."""
    assert [family.latent_scale for family in FAMILIES] == [0.18215, 0.18215, 0.13025]


def ids(pad: int) -> torch.Tensor:
    """Two windows of 3 and 5 tokens."""
    windows = [[START, 320, 2368, 320, END], [START, 320, 5, 2368, 41000, 320, END]]
    return torch.tensor([window + [pad] * (77 - len(window)) for window in windows])


def test_sd2_takes_the_penultimate_layer_of_openclip(checkpoints):
    tensors = checkpoints["sd2"]
    encoder = TextEncoder(assemble_text_encoder(tensors, H), H, clip_skip=2)
    states, pooled = encoder(ids(pad=0))
    layers, norm, _ = openclip_states(tensors, H.prefix, ids(pad=0), heads=1)
    torch.testing.assert_close(states, norm(layers[-2]), atol=1e-5, rtol=0)
    assert not torch.allclose(norm(layers[-1]), norm(layers[-2]), atol=1e-3)
    assert pooled is None


def test_sdxl_takes_penultimate_states_and_the_projected_end_of_openclip(checkpoints):
    tensors = checkpoints["sdxl"]
    states, pooled = TextEncoder(assemble_text_encoder(tensors, BIG_G), BIG_G)(ids(pad=0))
    layers, _, projected = openclip_states(tensors, BIG_G.prefix, ids(pad=0), heads=2)
    torch.testing.assert_close(states, layers[-2], atol=1e-5, rtol=0)
    torch.testing.assert_close(pooled, projected, atol=1e-5, rtol=0)


def test_sdxls_first_encoder_gives_hidden_states_without_the_norm(checkpoints):
    row = SDXL.text_encoders[0]
    model = assemble_text_encoder(checkpoints["sdxl"], row)
    states, pooled = TextEncoder(model, row, clip_skip=1)(ids(pad=END))
    expected = model(ids(pad=END), output_hidden_states=True).hidden_states
    assert torch.equal(states, expected[-2])
    assert pooled is None


def test_text_encoders_in_transformers_layout_are_taken_too(checkpoints):
    """Some hosts hold OpenCLIP's encoders so; the projection is then stored transposed."""
    tensors = checkpoints["sdxl"]
    expected = assemble_text_encoder(tensors, BIG_G)
    own = {BIG_G.prefix + name: p for name, p in expected.named_parameters()}
    found = assemble_text_encoder(own, BIG_G)
    for (name, a), b in zip(expected.named_parameters(), found.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.data_ptr() == b.data_ptr()


def test_text_encoder_gives_the_original_modules_output(tensors):

    drawn = torch.randint(0, 49406, (2, 77))
    with torch.no_grad():
        expected = tiny_modules(seed=3)[2][0](drawn).last_hidden_state
        found = assemble_text_encoder(tensors, SD1.text_encoders[0])(drawn).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_text_encoder_of_old_files_without_text_model_in_their_names(tensors):
    row = SD1.text_encoders[0]
    old = {name.replace("text_model.", ""): tensor for name, tensor in tensors.items()}
    with torch.no_grad():
        expected = assemble_text_encoder(tensors, row)(ids(END)).last_hidden_state
        assert torch.equal(assemble_text_encoder(old, row)(ids(END)).last_hidden_state, expected)


def test_bare_vae_file_is_taken_as_it_is(tensors):
    bare = {n[len(VAE_PREFIX) :]: t for n, t in tensors.items() if n.startswith(VAE_PREFIX)}
    assert assemble_vae(bare, SD1).config.block_out_channels == (32, 32, 32, 32)


@pytest.mark.parametrize(("family", "tensors"), [(SD1, 686), (SD2, 686), (SDXL, 1680)])
def test_config_of_a_full_size_checkpoint(family: Family, tensors: int):
    published = FULL_UNETS[family.name]
    with torch.device("meta"):
        full = UNet2DConditionModel(**published)
    attention = [kind.startswith("Cross") for kind in published["up_block_types"]]
    own = {unet_name(name, attention): p for name, p in full.named_parameters()}
    assert len(own) == tensors
    config = unet_config(own, family)
    assert {name: config[name] for name in published} == published
    assert (config["in_channels"], config["out_channels"]) == (4, 4)


@pytest.mark.parametrize(
    ("row", "width", "inner", "layers", "expected"),
    [
        (SD1.text_encoders[0], 768, 3072, 12, (12, 12, "quick_gelu")),
        (H, 1024, 4096, 24, (23, 16, "gelu")),
        (SDXL.text_encoders[0], 768, 3072, 12, (12, 12, "quick_gelu")),
        (BIG_G, 1280, 5120, 32, (32, 20, "gelu")),
    ],
)
def test_config_of_a_full_size_text_encoder(row: TextEncoderRow, width, inner, layers, expected):
    """Source: text_encoder/config.json of the same, and of text_encoder_2."""
    shapes = {
        "text_model.embeddings.token_embedding.weight": (49408, width),
        "text_model.embeddings.position_embedding.weight": (77, width),
        "text_model.encoder.layers.0.mlp.fc1.weight": (inner, width),
        f"text_model.encoder.layers.{layers - 1}.mlp.fc1.weight": (inner, width),
        "text_model.final_layer_norm.weight": (width,),
        "text_projection.weight": (width, width),
    }
    if row.layout == "openclip":
        shapes = {openclip_name(name)[0]: shape for name, shape in shapes.items()}
    config = clip_config({k: torch.empty(v, device="meta") for k, v in shapes.items()}, row)
    assert (config.num_hidden_layers, config.num_attention_heads, config.hidden_act) == expected
    assert (config.intermediate_size, config.projection_dim) == (inner, width)
    assert (config.bos_token_id, config.eos_token_id) == (START, END)


def test_the_full_size_vae_has_248_distinct_names():
    """Source: the published v1 autoencoder (kl-f8), ch 128, ch_mult 1, 2, 4, 4."""
    with torch.device("meta"):
        full = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            latent_channels=4,
            layers_per_block=2,
        )
    names = {vae_name(name) for name, _ in full.named_parameters()}
    assert len(names) == 248


def test_missing_tensor_is_named(tensors):
    name = UNET_PREFIX + "middle_block.0.in_layers.2.weight"
    rest = {n: t for n, t in tensors.items() if n != name}
    with pytest.raises(BadInput, match=r"middle_block\.0\.in_layers\.2\.weight"):
        assemble_unet(rest, SD1)


def test_wrong_shape_is_named(tensors):
    name = UNET_PREFIX + "middle_block.0.in_layers.2.weight"
    broken = {**tensors, name: tensors[name][:, :-1]}
    with pytest.raises(BadInput, match=r"mid_block\.resnets\.0\.conv1\.weight has the shape"):
        assemble_unet(broken, SD1)


def test_unknown_name_has_no_place_in_the_layout():
    with pytest.raises(KeyError, match="class_embedding"):
        unet_name("class_embedding.weight", [True])


def test_unknown_name_has_no_place_in_openclip():
    with pytest.raises(KeyError, match="visual_projection"):
        openclip_name("visual_projection.weight")


@pytest.mark.parametrize(("row", "name"), [(H, "ln_final.weight"), (BIG_G, "text_projection")])
def test_missing_tensor_of_openclip_is_named(row: TextEncoderRow, name: str, checkpoints):
    tensors = checkpoints["sd2" if row is H else "sdxl"]
    rest = {n: t for n, t in tensors.items() if n != row.prefix + name}
    with pytest.raises(BadInput, match=f"lacks the tensor {name}"):
        assemble_text_encoder(rest, row)

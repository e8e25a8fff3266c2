"""The assembled modules against diffusers' own conversion, and against the tensors given."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)

from tests.conftest import tiny_modules
from trainer.errors import BadInput
from trainer.models.assemble import (
    assemble_clip,
    assemble_unet,
    assemble_vae,
    clip_config,
    unet_config,
)
from trainer.models.export import ldm_tensors
from trainer.models.families import SD1
from trainer.models.ldm_names import UNET_PREFIX, VAE_PREFIX, unet_name, vae_name

CLIP_PREFIX = SD1.text_prefixes[0]


@pytest.fixture(scope="module")
def modules():
    return tiny_modules(seed=3)


@pytest.fixture(scope="module")
def tensors(modules):
    return ldm_tensors(*modules, SD1, torch.float32)


def test_every_parameter_shares_its_storage_with_the_checkpoint(tensors):
    storages = {t.untyped_storage().data_ptr() for t in tensors.values()}
    for module in (
        assemble_unet(tensors, SD1),
        assemble_vae(tensors, SD1),
        assemble_clip(tensors, CLIP_PREFIX),
    ):
        for name, parameter in module.named_parameters():
            assert parameter.untyped_storage().data_ptr() in storages, name
            assert not parameter.requires_grad
        assert not any(t.is_meta for t in module.state_dict().values())
        assert not module.training


def test_unet_equals_diffusers_own_conversion(tensors):
    ours = assemble_unet(tensors, SD1)
    config = dict(ours.config)
    theirs = UNet2DConditionModel.from_config(config)
    theirs.load_state_dict(convert_ldm_unet_checkpoint(dict(tensors), config=config))
    latents, context = torch.randn(2, 4, 16, 8), torch.randn(2, 77, 64)
    timesteps = torch.tensor([10, 900])
    with torch.no_grad():
        expected = theirs.eval()(latents, timesteps, context).sample
        found = ours(latents, timesteps, context).sample
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


def test_text_encoder_gives_the_original_modules_output(modules, tensors):
    ids = torch.randint(0, 49406, (2, 77))
    with torch.no_grad():
        expected = modules[2](ids).last_hidden_state
        found = assemble_clip(tensors, CLIP_PREFIX)(ids).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_text_encoder_of_old_files_without_text_model_in_their_names(tensors):
    old = {name.replace("text_model.", ""): tensor for name, tensor in tensors.items()}
    ids = torch.tensor([[49406, 320, 49407]])
    with torch.no_grad():
        expected = assemble_clip(tensors, CLIP_PREFIX)(ids).last_hidden_state
        assert torch.equal(assemble_clip(old, CLIP_PREFIX)(ids).last_hidden_state, expected)


def test_bare_vae_file_is_taken_as_it_is(tensors):
    bare = {n[len(VAE_PREFIX) :]: t for n, t in tensors.items() if n.startswith(VAE_PREFIX)}
    assert assemble_vae(bare, SD1).config.block_out_channels == (32, 32, 32, 32)


def test_config_of_a_full_size_checkpoint():
    """Source: runwayml/stable-diffusion-v1-5's published unet/config.json and text config."""
    with torch.device("meta"):
        full = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280),
            cross_attention_dim=768,
            attention_head_dim=8,
        )
    attention = [True, True, True, False][::-1]
    own = {unet_name(name, attention): p for name, p in full.named_parameters()}
    assert len(own) == 686
    config = unet_config(own, SD1)
    assert config["block_out_channels"] == (320, 640, 1280, 1280)
    assert config["cross_attention_dim"] == 768
    assert config["attention_head_dim"] == 8
    assert config["layers_per_block"] == 2
    assert config["down_block_types"] == ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    assert config["up_block_types"] == ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    assert config["transformer_layers_per_block"] == [1, 1, 1, 1]
    assert not config["use_linear_projection"]


def test_clip_heads_are_64_channels_wide():
    shapes = {
        "text_model.embeddings.token_embedding.weight": (49408, 768),
        "text_model.embeddings.position_embedding.weight": (77, 768),
        "text_model.encoder.layers.11.mlp.fc1.weight": (3072, 768),
        "text_model.encoder.layers.0.mlp.fc1.weight": (3072, 768),
    }
    config = clip_config({k: torch.empty(v, device="meta") for k, v in shapes.items()})
    assert (config.num_attention_heads, config.num_hidden_layers) == (12, 12)
    assert config.intermediate_size == 3072


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

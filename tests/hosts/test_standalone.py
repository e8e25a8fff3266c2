from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import tiny_tensors
from trainer.diffusion.schedule import NoiseSchedule
from trainer.errors import BadInput
from trainer.hosts.standalone import StandaloneHost
from trainer.models.export import write_checkpoint
from trainer.models.families import SDXL
from trainer.models.ldm_names import VAE_PREFIX
from trainer.settings.groups import ModelSettings


@pytest.fixture
def host(tiny_checkpoint: Path, tmp_path: Path) -> StandaloneHost:
    return StandaloneHost(tiny_checkpoint.parent, tmp_path, "cpu")


@pytest.mark.parametrize("name", ["tiny", "tiny.safetensors", "PATH"])
def test_checkpoint_is_found_by_name_and_by_path(host, tiny_checkpoint, name):
    settings = ModelSettings(checkpoint=str(tiny_checkpoint) if name == "PATH" else name)
    assert host.check_model(settings).title == "Stable Diffusion 1"
    with host.borrow(settings) as model:
        assert model.origin.name == "tiny.safetensors"
        assert len(model.origin.sha256) == 64
        assert not any(p.requires_grad for p in model.unet.parameters())


def test_unknown_name_lists_what_there_is(host):
    with pytest.raises(BadInput, match="no 'other'.*found there: tiny"):
        host.check_model(ModelSettings(checkpoint="other"))


def test_lora_file_is_refused_by_its_kind(host, tmp_path):
    path = tmp_path / "lora.safetensors"
    save_file({"lora_unet_x.lora_up.weight": torch.ones(1)}, path)
    with pytest.raises(BadInput, match="a LoRA file"):
        host.check_model(ModelSettings(checkpoint=str(path)))


def test_ckpt_and_safetensors_give_the_same_model(host, tiny_checkpoint, tmp_path):
    path = tmp_path / "tiny.ckpt"
    torch.save({"state_dict": load_file(tiny_checkpoint)}, path)
    outputs = []
    for checkpoint in (tiny_checkpoint, path):
        with host.borrow(ModelSettings(checkpoint=str(checkpoint))) as model, torch.no_grad():
            latents = torch.ones(1, 4, 8, 8)
            prompt = model.encode_prompts(["a cat"])
            outputs.append(model.denoise(latents, torch.tensor([5]), prompt))
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=0)


def test_another_vae_is_used_for_pictures_only(host, tiny_checkpoint, tmp_path):
    tensors = load_file(tiny_checkpoint)
    vae = {n[len(VAE_PREFIX) :]: t * 1.1 for n, t in tensors.items() if n.startswith(VAE_PREFIX)}
    path = tmp_path / "other_vae.safetensors"
    save_file(vae, path)
    pixels = torch.rand(1, 3, 64, 64)
    own, other = (ModelSettings(checkpoint="tiny", vae=v) for v in ("", str(path)))
    with host.borrow(own) as model:
        expected = model.encode_pixels(pixels)
    with host.borrow(other) as model:
        assert not torch.allclose(model.encode_pixels(pixels), expected)
        assert model.origin.vae_name == "other_vae.safetensors"


def test_a_file_that_is_no_vae_is_named(host, tmp_path):
    path = tmp_path / "lora.safetensors"
    save_file({"lora_unet_x.lora_up.weight": torch.ones(1)}, path)
    with pytest.raises(BadInput, match="vae: .*holds no VAE but a LoRA file"):
        host.check_model(ModelSettings(checkpoint="tiny", vae=str(path)))


@pytest.mark.parametrize(
    ("base", "vae", "unet_dtype", "vae_dtype"),
    [
        ("fp32", "fp32", torch.float32, torch.float32),
        ("bf16", "fp32", torch.bfloat16, torch.float32),
        ("auto", "bf16", torch.float32, torch.bfloat16),
    ],
)
def test_precisions_are_independent(host, base, vae, unet_dtype, vae_dtype):
    settings = ModelSettings(checkpoint="tiny", base_precision=base, vae_precision=vae)
    with host.borrow(settings) as model:
        assert (model.unet.dtype, model.vae.dtype) == (unet_dtype, vae_dtype)
        assert model.compute_dtype is unet_dtype


@pytest.mark.parametrize("mark", [False, True])
def test_v_prediction_is_read_from_its_mark(tiny_checkpoint, tmp_path, mark):
    tensors = load_file(tiny_checkpoint)
    save_file(
        {**tensors, **({"v_pred": torch.ones(1)} if mark else {})}, tmp_path / "x.safetensors"
    )
    host = StandaloneHost(tmp_path, tmp_path, "cpu")
    with host.borrow(ModelSettings(checkpoint="x")) as model:
        assert model.schedule.prediction_type == ("v_prediction" if mark else "epsilon")
    forced = ModelSettings(checkpoint="x", prediction_type="epsilon")
    with host.borrow(forced) as model:
        assert model.schedule.prediction_type == "epsilon"


def test_marks_in_a_file_say_what_the_model_predicts(tmp_path: Path) -> None:
    """Source: SDXL models with v-prediction carry empty tensors of these names."""
    marked = {**tiny_tensors(SDXL), "v_pred": torch.empty(0), "ztsnr": torch.empty(0)}
    write_checkpoint(tmp_path / "marked.safetensors", marked)
    host = StandaloneHost(tmp_path, tmp_path, "cpu")

    def schedule(**settings: str) -> NoiseSchedule:
        with host.borrow(ModelSettings(checkpoint="marked", **settings)) as model:
            return model.schedule

    found = schedule()
    assert found.prediction_type == "v_prediction"
    assert found.alphas_cumprod[-1] == 0
    assert schedule(zero_terminal_snr="off").alphas_cumprod[-1] > 0
    plain = schedule(prediction_type="epsilon")
    assert plain.prediction_type == "epsilon"
    assert plain.alphas_cumprod[-1] > 0


def test_only_results_are_offered_as_loras(host, tmp_path):
    for name in ("hat", "styles/ink", "logs/states/hat/00000010", "logs/cache/0/latents"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.safetensors").touch()
    found = [str(tmp_path / f"{name}.safetensors") for name in ("hat", "styles/ink")]
    assert host.loras() == found


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_here_is_bad_input(tmp_path, device):
    with pytest.raises(BadInput, match=f"--device: '{device}' cannot be used"):
        StandaloneHost(tmp_path, tmp_path, device)

"""Facts about a model in parts."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import tiny_tensors
from trainer.data.views import Framing
from trainer.errors import BadInput
from trainer.models.families import SD1, SD2, SDXL
from trainer.models.model import DiffusionModel, assemble_model, at_once, compute_dtype, kept_in

CPU, GPU = torch.device("cpu"), torch.device("cuda")
FP32, FP16, BF16, FP8 = torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn


@pytest.mark.parametrize(
    ("precision", "stored", "device", "computed"),
    [
        ("auto", FP16, GPU, FP16),
        ("auto", FP32, GPU, FP32),
        ("auto", BF16, GPU, BF16),
        ("auto", FP8, GPU, FP16),
        ("auto", FP16, CPU, FP32),
        ("auto", BF16, CPU, FP32),
        ("auto", FP16, torch.device("mps"), FP32),
        ("bf16", FP32, CPU, BF16),
        ("fp32", FP16, GPU, FP32),
        ("fp8", FP16, GPU, FP16),
        ("int8", FP32, GPU, BF16),
        ("int8", FP16, CPU, FP32),
    ],
)
def test_what_is_computed_in(monkeypatch, precision, stored, device, computed) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    assert compute_dtype(precision, stored, device) is computed


@pytest.mark.parametrize(
    ("precision", "stored", "device", "kept"),
    [
        ("auto", FP8, GPU, FP8),
        ("auto", FP16, GPU, None),
        ("auto", FP8, CPU, None),
        ("fp16", FP8, GPU, None),
        ("fp8", FP16, CPU, FP8),
        ("int8", FP8, GPU, torch.int8),
    ],
)
def test_what_weights_are_kept_in(precision, stored, device, kept) -> None:
    storage = kept_in(precision, stored, device)
    assert (storage and storage.dtype) is kept


def test_a_gpu_without_bfloat16_computes_in_float32(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert compute_dtype("auto", BF16, GPU) is FP32


@pytest.fixture(scope="module")
def sdxl() -> DiffusionModel:
    return assemble_model(tiny_tensors(SDXL), SDXL, device=CPU)


@torch.no_grad()
def test_sdxls_unet_is_told_the_pooled_prompt_and_the_sizes(sdxl: DiffusionModel) -> None:
    told = sdxl.encode_prompts(["a cat", "a dog"])
    latents, timesteps = torch.randn(2, 4, 8, 16), torch.tensor([3, 700])

    def expected(sizes: list[list[int]]) -> torch.Tensor:
        added = {"text_embeds": told.pooled, "time_ids": torch.tensor(sizes)}
        return sdxl.unet(latents, timesteps, told.context, added_cond_kwargs=added).sample

    whole = sdxl.denoise(latents, timesteps, told)
    torch.testing.assert_close(whole, expected([[64, 128, 0, 0, 64, 128]] * 2))
    framings = [Framing((90, 700), (0, 8), (64, 128)), Framing((64, 128), (0, 0), (64, 128))]
    cut = sdxl.denoise(latents, timesteps, told.framed(framings))
    torch.testing.assert_close(cut, expected([[90, 700, 0, 8, 64, 128], [64, 128, 0, 0, 64, 128]]))
    assert (cut[0] - whole[0]).abs().max() > 1e-4


def test_sdxl_without_a_negative_prompt_is_drawn_against_zeros(sdxl: DiffusionModel) -> None:
    """Source: force_zeros_for_empty_prompt of the published sd_xl_base pipeline."""
    told = sdxl.encode_guided(["a cat"])
    assert not told.context[0].any()
    assert not told.pooled[0].any()
    one = sdxl.encode_prompts(["a cat"])
    torch.testing.assert_close(told.context[1:], one.context)
    assert sdxl.encode_guided(["a cat"], "a dog").context[0].any()
    sd1 = assemble_model(tiny_tensors(SD1), SD1, device=CPU)
    assert sd1.encode_guided(["a cat"]).context[0].any()


@torch.no_grad()
def test_pictures_are_drawn_from_prompts_in_the_webuis_syntax(sdxl: DiffusionModel) -> None:
    prompt = "a (red:0.3) cat BREAK a dog"
    told = sdxl.encode_guided([prompt], "(blue)")
    torch.testing.assert_close(told.context[1:], sdxl.encode_weighted([prompt]).context)
    assert not torch.equal(told.context[1:], sdxl.encode_prompts([prompt]).context)
    assert not torch.equal(told.context[:1, :77], sdxl.encode_prompts(["(blue)"]).context)


def test_a_last_step_of_pure_noise_needs_a_velocity() -> None:
    tensors = tiny_tensors(SD2)
    model = assemble_model(tensors, SD2, device=CPU, prediction_type="v_prediction", zero_snr=True)
    assert model.schedule.alphas_cumprod[-1] == 0
    with pytest.raises(BadInput, match="zero_terminal_snr"):
        assemble_model(tensors, SD2, device=CPU, prediction_type="epsilon", zero_snr=True)


def test_only_sd2_is_asked_what_it_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.models.model.predicts_velocity", lambda unet: True)
    found = [
        assemble_model(tiny_tensors(family), family, device=CPU, prediction_type=None)
        for family in (SD1, SD2)
    ]
    assert [one.schedule.prediction_type for one in found] == ["epsilon", "v_prediction"]


def test_parts_nobody_else_holds_are_set_aside_until_they_are_needed() -> None:
    shared = assemble_model(tiny_tensors(SD1), SD1, device=CPU)
    assert shared.own == ()
    copied = assemble_model(tiny_tensors(SD1), SD1, device=CPU, dtype=FP32, vae_dtype=BF16)
    assert copied.own == (copied.vae,)  # the text encoder is fp32 already
    copied.device = torch.device("meta")  # as if it computed on a GPU
    moved: list[torch.device] = []
    copied.vae.to = moved.append  # type: ignore[method-assign, assignment]
    copied.set_aside(copied.vae, *copied.text_encoders)
    assert moved == [CPU]
    copied.at_hand(copied.vae)
    assert moved == [CPU, torch.device("meta")]


def test_parts_that_lie_where_they_should_are_not_moved() -> None:
    """A webui's device may be named without a number, and that of a tensor never is."""
    model = assemble_model(tiny_tensors(SD1), SD1, device=torch.device("cpu", 0))
    assert model.device == next(model.unet.parameters()).device
    moved: list[torch.device] = []
    (encoder,) = model.text_encoders
    encoder.to = moved.append  # type: ignore[method-assign, assignment]
    model.encode_prompts(["a cat"])
    assert moved == []


def test_full_precision_needs_no_autocast_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.1, which the webuis have on a Mac, refuses one for mps even when it is off."""
    model = assemble_model(tiny_tensors(SD1), SD1, device=CPU)
    before = torch.autocast

    def of_torch_2_1(device_type: str, dtype: torch.dtype, enabled: bool = True) -> torch.autocast:
        if device_type not in ("cpu", "cuda"):
            raise RuntimeError(f"User specified an unsupported autocast device_type {device_type}")
        return before(device_type, dtype, enabled)

    monkeypatch.setattr(torch, "autocast", of_torch_2_1)
    model.device = torch.device("mps")
    with model.autocast():
        pass
    model.device = CPU
    with torch.autocast("cpu", BF16), model.autocast():  # one that is on around it is switched off
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype is FP32


def test_large_pictures_go_through_the_vae_one_by_one() -> None:
    model = assemble_model(tiny_tensors(SD1), SD1, device=CPU)
    assert [at_once(size) for size in ((512, 512), (1024, 1024), (2048, 2048), (512, 768))] == [
        *(4, 1, 1, 2),
    ]
    pixels = torch.rand(5, 3, 64, 64) * 2 - 1
    together = model.encode_pixels(pixels)
    apart = torch.cat([model.encode_pixels(one[None]) for one in pixels])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
    drawn = model.decode_latents(together)
    alone = torch.cat([model.decode_latents(one[None]) for one in together])
    torch.testing.assert_close(drawn, alone, atol=1e-4, rtol=0)

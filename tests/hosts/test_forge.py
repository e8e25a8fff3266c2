"""Loans from Forge and reForge, against stand-ins with their surfaces."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.conftest import tiny_tensors
from tests.hosts.forge_standin import Forge, ReForge, running
from tests.hosts.standin import WEBUI
from trainer.control import Control
from trainer.errors import BadInput, TrainyardError
from trainer.hosts.a1111 import WebuiHost, lender
from trainer.hosts.forge_lender import ForgeLender, ReForgeLender, ordinary
from trainer.models.families import FAMILIES
from trainer.models.model import DiffusionModel
from trainer.settings.groups import ModelSettings

KINDS = [(kind, one.name) for kind in (Forge, ReForge) for one in FAMILIES]


@pytest.fixture(params=KINDS, ids=[f"{kind.__name__}-{name}" for kind, name in KINDS])
def forge(
    request: pytest.FixtureRequest, tiny_checkpoints: dict[str, Path], tmp_path: Path
) -> Iterator[Forge]:
    kind, family = request.param
    with running(lambda: kind(family, tiny_checkpoints[family], tmp_path)) as started:
        yield started


@pytest.fixture
def sd1(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> Iterator[Forge]:
    with running(lambda: Forge("sd1", tiny_checkpoints["sd1"], tmp_path)) as started:
        yield started


def settings(forge: Forge, **values: object) -> ModelSettings:
    return ModelSettings(checkpoint=forge.info.name, **values)  # type: ignore[arg-type]


def predicted(model: DiffusionModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    with torch.no_grad():
        return model.denoise(latents, torch.tensor([500]), model.encode_prompts(["a hat"]))


def test_the_kind_is_recognised(forge: Forge) -> None:
    wanted = ReForgeLender if isinstance(forge, ReForge) else ForgeLender
    assert type(lender()) is wanted


def test_the_loaded_model_is_lent_without_a_copy(forge: Forge) -> None:
    forge.draw()
    before = forge.fingerprint()
    parts = forge.parts
    theirs = (parts.unet.model, parts.clip.cond_stage_model, parts.vae.first_stage_model)
    storages = {p.untyped_storage().data_ptr() for one in theirs for p in one.parameters()}
    with WebuiHost().borrow(settings(forge)) as model:
        ours = (model.unet, model.vae, *model.text_encoders)
        assert all(
            p.untyped_storage().data_ptr() in storages for one in ours for p in one.parameters()
        )
        assert not any(p.is_inference() for one in ours for p in one.parameters())
    assert forge.fingerprint() == before


def test_it_computes_as_the_checkpoint_file_does(forge: Forge, tmp_path: Path) -> None:
    from trainer.hosts.standalone import StandaloneHost

    file = Path(forge.info.filename)
    with StandaloneHost(file.parent, tmp_path, "cpu").borrow(settings(forge)) as model:
        expected = predicted(model)
    with WebuiHost().borrow(settings(forge)) as model:
        torch.testing.assert_close(predicted(model), expected)


def test_gradients_pass_through_tensors_of_inference_mode(forge: Forge) -> None:
    forge.draw()
    with WebuiHost().borrow(settings(forge)) as model:
        conditioning = model.encode_prompts(["a hat"])
        latents = torch.randn(1, 4, 8, 8, requires_grad=True)
        model.denoise(latents, torch.tensor([500]), conditioning).sum().backward()
        assert latents.grad is not None


def test_a_lora_of_the_last_picture_is_not_trained_on(forge: Forge) -> None:
    clean, changed = forge.draw(), forge.draw([0.25])
    assert changed != clean
    with WebuiHost().borrow(settings(forge)):
        assert forge.fingerprint() == clean
    assert forge.draw([0.25]) == changed, "the next picture works it in again"


def test_a_picture_comes_between_two_steps(forge: Forge) -> None:
    changed, clean = forge.draw([0.25]), forge.draw()
    control = Control()
    with WebuiHost().borrow(settings(forge), control) as model:
        expected = predicted(model)
        drawn: list[str] = []
        thread = threading.Thread(target=lambda: drawn.append(forge.draw([0.25])))
        thread.start()
        while not forge.lock._pending_threads:
            pass
        control.checkpoint()
        thread.join(10)
        assert drawn == [changed]
        assert forge.fingerprint() == clean
        assert torch.equal(predicted(model), expected)


def test_nothing_is_loaded_before_the_first_picture(forge: Forge) -> None:
    host = WebuiHost()
    assert host.loaded_checkpoint() == forge.info.name
    with host.borrow(settings(forge)) as model:
        assert model.origin.name == forge.info.name


def test_a_checkpoint_that_cannot_be_loaded_ends_the_job(sd1: Forge) -> None:
    def fail() -> None:
        raise OSError("broken file")

    WEBUI.modules["sd_models"].forge_model_reload = fail
    wanted = pytest.raises(TrainyardError, match="broken file")
    with wanted, WebuiHost().borrow(settings(sd1)):
        raise AssertionError("not lent")


def test_a_quantised_model_is_refused(sd1: Forge) -> None:
    sd1.draw()
    next(sd1.parts.unet.model.parameters()).gguf_cls = object()
    with (
        pytest.raises(BadInput, match="Diffusion in Low Bits"),
        WebuiHost().borrow(settings(sd1)),
    ):
        raise AssertionError("not lent")


def test_what_the_model_predicts_is_read_from_forge(sd1: Forge) -> None:
    sd1.draw()
    sd1.parts.unet.model.predictor.prediction_type = "v_prediction"
    sd1.sd_model.model_config.ztsnr = True
    with WebuiHost().borrow(settings(sd1)) as model:
        assert model.schedule.prediction_type == "v_prediction"
        assert model.schedule.alphas_cumprod[-1] == 0


def test_the_checkpoints_own_vae_is_taken_when_another_was_added(sd1: Forge) -> None:
    sd1.draw()
    WEBUI.modules["shared"].opts.forge_additional_modules = ["other.safetensors"]
    with torch.inference_mode():
        for p in sd1.parts.vae.first_stage_model.parameters():
            p.zero_()
    own = tiny_tensors(sd1.family)["first_stage_model.encoder.conv_in.weight"]
    with WebuiHost().borrow(settings(sd1)) as model:
        assert torch.equal(model.vae.encoder.conv_in.weight, own)


def test_embeddings_come_from_forges_engine(sd1: Forge) -> None:
    sd1.draw()
    vectors = torch.zeros(1, 64)
    lookup = sd1.sd_model.text_processing_engine.embeddings.ids_lookup
    lookup[7] = [([7], type("Embedding", (), {"vec": vectors}))]
    with WebuiHost().borrow(settings(sd1)) as model:
        assert [one.name for one in model.style.embeddings] == [(7,)]


def test_forge_breaks_lines_at_commas_whatever_its_setting_says(forge: Forge) -> None:
    forge.draw()
    WEBUI.modules["shared"].opts.comma_padding_backtrack = 3
    with WebuiHost().borrow(settings(forge)) as model:
        assert model.style.comma_reach == (3 if isinstance(forge, ReForge) else 20)


def test_clip_skip_counts_beyond_a_familys_own_layer(forge: Forge) -> None:
    """Forge counts from its own last layer: SD2's text encoder has one less there."""
    forge.draw()
    sd2 = 2 if isinstance(forge, ReForge) else 3
    for skip, expected in ((1, {"sd2": 1, "sdxl": 2}), (3, {"sd2": sd2, "sdxl": 3})):
        WEBUI.modules["shared"].opts.CLIP_stop_at_last_layers = skip
        with WebuiHost().borrow(settings(forge)) as model:
            layers = {row.layer for row in model.family.text_encoders}
        assert layers == {expected.get(model.family.name)}


def test_a_new_file_of_the_same_name_is_read_again(sd1: Forge, tmp_path: Path) -> None:
    file = tmp_path / "hat.safetensors"
    file.write_bytes(b"old")
    read = WEBUI.networks.load_lora_state_dict
    assert read(str(file)) == b"old"
    file.write_bytes(b"new")
    WebuiHost().published(file)
    assert read(str(file)) == b"new"


def test_ordinary_shares_the_storage() -> None:
    with torch.inference_mode():
        made = torch.arange(6.0).reshape(2, 3).T
    plain = ordinary(made)
    assert not plain.is_inference()
    assert plain.data_ptr() == made.data_ptr()
    assert torch.equal(plain, made)

"""The loan of a webui's model: shared while it lasts, and without a trace afterwards."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from tests.hosts.standin import WEBUI, AppliedLora, Webui
from tests.modules import tiny_modules
from trainer.control import Control, Request
from trainer.errors import BadInput, TrainyardError
from trainer.hosts.a1111 import STOP_AND_SAVE, WebuiHost, subfolder, within_limits
from trainer.hosts.assembling import read_vae
from trainer.hosts.gate import BLOCK, PAUSE
from trainer.models.checkpoint import read_tensors
from trainer.models.export import ldm_tensors, write_checkpoint
from trainer.models.families import FAMILIES, SD1
from trainer.settings.groups import CacheSettings, ModelSettings
from trainer.settings.schema import parse

SETTINGS = ModelSettings(checkpoint="one.safetensors")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    found = {}
    for seed, name in enumerate(("one", "two")):
        found[name] = folder / f"{name}.safetensors"
        write_checkpoint(found[name], ldm_tensors(*tiny_modules(seed), SD1, torch.float32))
    return found


@pytest.fixture
def family_webui(
    tiny_checkpoints: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Webui]:
    """A webui with a checkpoint of the family that the test names."""
    WEBUI.start(tmp_path, {"one": tiny_checkpoints[request.param]})
    yield WEBUI
    assert not WEBUI.lock.taken, "the webui can generate"


@pytest.fixture
def webui(files: dict[str, Path], tmp_path: Path) -> Iterator[Webui]:
    (tmp_path / "models/Lora").mkdir(parents=True)
    WEBUI.start(tmp_path, files)
    yield WEBUI
    assert not WEBUI.lock.taken, "the webui can generate"


@pytest.fixture
def lora(tmp_path: Path, webui: Webui) -> AppliedLora:
    file = tmp_path / "hat.safetensors"
    file.write_bytes(b"hat")
    return AppliedLora(file, 0.25)


def test_every_tensor_is_the_webuis_own(webui: Webui) -> None:
    live = {p.data_ptr() for p in webui.model.parameters()}
    with WebuiHost().borrow(SETTINGS) as model:
        for part in (model.unet, *model.text_encoders):
            assert all(p.data_ptr() in live for p in part.parameters())
        assert all(p.data_ptr() in live for p in model.vae.parameters())
        assert model.origin.name == "one.safetensors"


@pytest.mark.parametrize(
    "error", [None, RuntimeError("odd"), KeyboardInterrupt(), MemoryError(), GeneratorExit()]
)
def test_however_it_ends_the_model_is_what_it_was(
    webui: Webui, lora: AppliedLora, error: BaseException | None
) -> None:
    webui.draw([lora])
    before = webui.fingerprint()
    try:
        with WebuiHost().borrow(SETTINGS) as model:
            assert webui.lock.taken
            model.unet.train()
            if error is not None:
                raise error
    except BaseException as raised:  # noqa: BLE001 - KeyboardInterrupt is one of the cases
        assert raised is error
    assert webui.fingerprint() == before
    assert webui.networks.loaded_networks == [lora]


def test_a_lora_of_the_last_picture_is_not_trained_on(webui: Webui, lora: AppliedLora) -> None:
    clean = webui.fingerprint()
    assert webui.draw([lora]) != clean
    with WebuiHost().borrow(SETTINGS):
        assert webui.fingerprint() == clean


def test_a_lora_that_was_written_anew_is_not_put_back(webui: Webui, lora: AppliedLora) -> None:
    clean = webui.fingerprint()
    webui.draw([lora])
    with WebuiHost().borrow(SETTINGS):
        lora.file.write_bytes(b"another")
        lora.mtime -= 10
    assert webui.fingerprint() == clean, "the next picture takes the new file"


def test_what_filled_the_memory_is_free_before_the_webui_goes_on(webui: Webui) -> None:
    filled: list[weakref.ref[torch.Tensor]] = []
    seen: list[bool] = []
    webui.at_gc.append(lambda: seen.append(filled[0]() is None and webui.lock.taken))

    def fail() -> None:
        large = torch.zeros(1000)
        filled.append(weakref.ref(large))
        raise RuntimeError("DefaultCPUAllocator: no memory")

    with pytest.raises(RuntimeError), WebuiHost().borrow(SETTINGS):
        fail()
    assert seen == [True]


def generate_meanwhile(
    webui: Webui, loras: list[AppliedLora]
) -> tuple[threading.Thread, list[str]]:
    """Asks for a picture in another thread, and returns when it waits for the lock."""
    drawn: list[str] = []
    thread = threading.Thread(target=lambda: drawn.append(webui.draw(loras)))
    thread.start()
    deadline = time.monotonic() + 10
    while not webui.lock._pending_threads and time.monotonic() < deadline:
        time.sleep(0.001)
    return thread, drawn


def test_a_picture_comes_between_two_steps_and_changes_nothing(
    webui: Webui, lora: AppliedLora
) -> None:
    wanted = webui.draw([lora])
    clean = webui.draw()
    control = Control()
    with WebuiHost().borrow(SETTINGS, control) as model:
        weights = [p.clone() for p in model.unet.parameters()]
        thread, drawn = generate_meanwhile(webui, [lora])
        assert drawn == []
        assert control.checkpoint() is Request.CONTINUE
        thread.join(10)
        assert drawn == [wanted], "the same picture as without a training"
        assert all(map(torch.equal, weights, model.unet.parameters()))
        assert webui.fingerprint() == clean
    assert webui.fingerprint() == wanted, "as the webui left it"


def test_with_block_a_picture_waits_for_the_end(webui: Webui) -> None:
    webui.modules["shared"].opts.trainyard_sharing = BLOCK
    control = Control()
    with WebuiHost().borrow(SETTINGS, control):
        thread, drawn = generate_meanwhile(webui, [])
        control.checkpoint()
        assert drawn == []
    thread.join(10)
    assert len(drawn) == 1


def test_with_pause_training_waits_until_the_webui_is_idle(webui: Webui) -> None:
    webui.modules["shared"].opts.trainyard_sharing = PAUSE
    webui.modules["shared"].opts.trainyard_idle_s = 0.4
    control = Control()
    with WebuiHost().borrow(SETTINGS, control):
        thread, _ = generate_meanwhile(webui, [])
        started = time.monotonic()
        control.checkpoint()
        assert time.monotonic() - started >= 0.4
        thread.join(10)


def test_a_paused_training_leaves_the_machine_to_the_webui(webui: Webui) -> None:
    control = Control()
    with WebuiHost().borrow(SETTINGS, control):
        control.pause()
        trainer = threading.Timer(0.3, control.resume)
        trainer.start()
        drawn: list[str] = []
        thread = threading.Thread(target=lambda: drawn.append(webui.draw()))
        thread.start()
        control.checkpoint()
        assert len(drawn) == 1
        thread.join(10)


def choose(webui: Webui, name: str) -> None:
    """What the webui's menu does before it waits for the lock."""
    webui.modules["shared"].opts.sd_model_checkpoint = name


def test_another_checkpoint_waits_for_the_end(webui: Webui) -> None:
    control = Control()
    with WebuiHost().borrow(SETTINGS, control):
        choose(webui, "two.safetensors")
        thread, drawn = generate_meanwhile(webui, [])
        assert control.checkpoint() is Request.CONTINUE
        assert drawn == []
        assert "Another checkpoint was chosen" in control.hint, "nothing else says why all waits"
        choose(webui, "one.safetensors")
        control.checkpoint()
        assert control.hint == ""
    thread.join(10)


def test_another_checkpoint_stops_and_saves_if_so_set(webui: Webui) -> None:
    webui.modules["shared"].opts.trainyard_checkpoint_change = STOP_AND_SAVE
    control = Control()
    with WebuiHost().borrow(SETTINGS, control):
        choose(webui, "two.safetensors")
        assert control.checkpoint() is Request.STOP_AND_SAVE


def test_a_checkpoint_changed_by_a_picture_is_loaded_back(webui: Webui) -> None:
    control = Control()
    with WebuiHost().borrow(SETTINGS, control) as model:
        weights = [p.clone() for p in model.unet.parameters()]
        control.pause()

        def change() -> None:
            with webui.lock:
                webui.load(webui.infos["two"])
            control.resume()

        thread = threading.Thread(target=change)
        thread.start()
        control.checkpoint()
        thread.join(10)
        assert webui.reloads == 1
        assert all(map(torch.equal, weights, model.unet.parameters()))


def test_moved_tensors_are_found_again(webui: Webui) -> None:
    control = Control()
    with WebuiHost().borrow(SETTINGS, control) as model:
        weights = [p.clone() for p in model.unet.parameters()]
        control.pause()

        def move() -> None:
            with webui.lock:
                for parameter in webui.model.parameters():
                    parameter.data = parameter.data.clone()
            control.resume()

        thread = threading.Thread(target=move)
        thread.start()
        control.checkpoint()
        thread.join(10)
        live = {p.data_ptr() for p in webui.model.parameters()}
        assert all(p.data_ptr() in live for p in model.unet.parameters())
        assert all(map(torch.equal, weights, model.unet.parameters()))


def test_another_checkpoint_is_loaded_by_the_webui_and_stays_chosen(webui: Webui) -> None:
    host = WebuiHost()
    with host.borrow(ModelSettings(checkpoint="two")) as model:
        assert model.origin.name == "two.safetensors"
    assert host.loaded_checkpoint() == "two.safetensors"


def test_a_checkpoint_that_cannot_be_loaded_ends_the_job(webui: Webui) -> None:
    def fail(info: object) -> None:
        raise OSError("broken file")

    webui.modules["sd_models"].reload_model_weights = fail
    wanted = pytest.raises(TrainyardError, match="cannot load one.safetensors: broken file")
    with wanted, WebuiHost().borrow(SETTINGS):
        raise AssertionError("not lent")


def test_an_unknown_checkpoint_is_refused_with_a_proposal(webui: Webui) -> None:
    with pytest.raises(BadInput, match="did you mean one.safetensors"):
        WebuiHost().check_model(ModelSettings(checkpoint="onee.safetensors"))


def test_a_checkpoint_is_found_while_the_webui_reads_its_folder_anew(webui: Webui) -> None:
    listed = sys.modules["modules.sd_models"].checkpoints_list
    whole = dict(listed)
    listed.clear()

    def read() -> None:
        for name, info in sorted(whole.items()):
            time.sleep(0.1)
            listed[name] = info

    reader = threading.Thread(target=read)
    reader.start()
    assert WebuiHost().check_model(ModelSettings(checkpoint="two.safetensors")).family is SD1
    reader.join()
    listed.clear()
    with pytest.raises(BadInput, match="known: none"):
        WebuiHost().check_model(SETTINGS)


@pytest.mark.parametrize("name", ["../x", "/tmp", "a/../../b"])
def test_results_stay_in_the_lora_folder(name: str) -> None:
    with pytest.raises(BadInput, match="leads out"):
        subfolder(name)


@pytest.mark.parametrize("name", ["/x", r"\x", "C:x", r"C:\x", r"\\server\share", r"a\..\.."])
def test_results_stay_in_the_lora_folder_on_windows(name: str, monkeypatch) -> None:
    monkeypatch.setattr("trainer.hosts.a1111.Path", PureWindowsPath)
    with pytest.raises(BadInput, match="leads out"):
        subfolder(name)
    assert subfolder(r"styles\x").parts == ("styles", "x")


def test_the_exact_weight_beside_an_8_bit_one_is_taken(webui: Webui) -> None:
    from trainer.hosts.a1111_lender import live_tensors

    layer = webui.model.get_submodule("model.diffusion_model.input_blocks.0.0")
    exact = layer.weight.detach().half()
    layer.weight = torch.nn.Parameter(exact.to(torch.float8_e4m3fn), requires_grad=False)
    layer.fp16_weight = exact
    taken = live_tensors(webui.model)["model.diffusion_model.input_blocks.0.0.weight"]
    assert torch.equal(taken, exact)


def test_velocity_and_zero_snr_are_read_from_the_webui(webui: Webui) -> None:
    webui.model.parameterization = "v"
    webui.modules["shared"].opts.sd_noise_schedule = "Zero Terminal SNR"
    with WebuiHost().borrow(SETTINGS) as model:
        assert model.schedule.prediction_type == "v_prediction"
        assert model.schedule.alphas_cumprod[-1] == 0
    webui.model.parameterization = "eps"
    with WebuiHost().borrow(SETTINGS) as model:
        assert model.schedule.alphas_cumprod[-1] > 0, "it cannot be for a model of the noise"


ALL = [family.name for family in FAMILIES]


def settings_for(webui: Webui, **values: object) -> ModelSettings:
    return ModelSettings(checkpoint=next(iter(webui.infos.values())).name, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("family_webui", ALL, indirect=True)
def test_a_model_of_every_family_is_lent_and_given_back(family_webui: Webui, tmp_path) -> None:
    webui, file = family_webui, tmp_path / "hat.safetensors"
    file.write_bytes(b"hat")
    clean = webui.draw()
    changed = webui.draw([AppliedLora(file, 0.25)])
    storages = {p.untyped_storage().data_ptr() for p in webui.model.parameters()}
    with WebuiHost().borrow(settings_for(webui)) as model:
        assert webui.fingerprint() == clean
        parts = (model.unet, model.vae, *model.text_encoders)
        assert all(
            p.untyped_storage().data_ptr() in storages for one in parts for p in one.parameters()
        ), "views of what the webui holds, no copies"
        latents = torch.randn(1, 4, 8, 8)
        drawn = model.denoise(latents, torch.tensor([500]), model.encode_prompts(["a hat"]))
        assert bool(drawn.isfinite().all())
    assert webui.fingerprint() == changed


def test_with_medvram_everything_is_sent_home_first(webui: Webui) -> None:
    webui.model.lowvram = True
    with WebuiHost().borrow(SETTINGS):
        assert webui.sent_to_cpu == 1


def test_weights_of_8_bits_are_computed_in_more(webui: Webui) -> None:
    """The webui's "FP8 weight": of UNet and text encoder, without the exact ones kept beside."""
    for name, p in webui.model.named_parameters():
        if p.ndim > 1 and not name.startswith("first_stage_model"):
            p.data = p.data.to(torch.float8_e4m3fn)
    before = webui.fingerprint()
    stored = webui.model.get_submodule("model.diffusion_model.input_blocks.0.0").weight
    with WebuiHost().borrow(SETTINGS) as model:
        assert model.compute_dtype is torch.float32, "on a CPU"
        assert torch.equal(model.unet.conv_in.weight, stored.float())
        latents = torch.randn(1, 4, 8, 8)
        drawn = model.denoise(latents, torch.tensor([500]), model.encode_prompts(["a hat"]))
        assert bool(drawn.isfinite().all())
    assert webui.fingerprint() == before


def test_the_vae_computes_in_its_own_precision(webui: Webui) -> None:
    """The webui keeps it in half precision on a GPU; pictures are encoded as the job says."""
    for p in webui.model.parameters():
        p.data = p.data.half()
    before = webui.fingerprint()
    with WebuiHost().borrow(SETTINGS) as model:
        assert (model.vae.dtype, model.unet.dtype) == (torch.float32, torch.float32)
        assert model.encode_pixels(torch.zeros(1, 3, 64, 64)).dtype is torch.float32
    with WebuiHost().borrow(settings_for(webui, vae_precision="bf16")) as model:
        assert model.vae.dtype is torch.bfloat16
    assert webui.fingerprint() == before


def test_the_checkpoints_own_vae_is_taken_when_the_webui_uses_another(
    webui: Webui, files: dict[str, Path]
) -> None:
    own = read_vae(files["two"])
    webui.modules["sd_vae"].get_base_vae = lambda model: own
    with WebuiHost().borrow(SETTINGS) as model:
        assert torch.equal(model.vae.encoder.conv_in.weight, own["encoder.conv_in.weight"])


def test_what_the_webui_hooks_into_its_own_layers_is_not_trained_through(webui: Webui) -> None:
    """Hypernetworks, sd_unet, token merging and tiling change ldm's modules, not the weights."""

    def refuse(*_: object) -> None:
        raise AssertionError("the webui's module was called")

    for module in webui.model.modules():
        module.register_forward_pre_hook(refuse)
        if isinstance(module, torch.nn.Conv2d):
            module.padding_mode = "circular"
    before = webui.fingerprint()
    with WebuiHost().borrow(SETTINGS) as model:
        assert model.unet.conv_in.padding_mode == "zeros"
        model.denoise(torch.zeros(1, 4, 8, 8), torch.tensor([1]), model.encode_prompts([""]))
    assert webui.fingerprint() == before


def test_only_layers_that_a_lora_changed_are_touched(webui: Webui) -> None:
    with WebuiHost().borrow(SETTINGS):
        pass
    assert not webui.applied_to


def test_prompts_are_read_as_the_webui_is_set(webui: Webui) -> None:
    opts = webui.modules["shared"].opts
    opts.emphasis, opts.comma_padding_backtrack = "No norm", 7
    opts.CLIP_stop_at_last_layers = 2
    vectors = torch.randn(2, 64)
    webui.embeddings[5] = [
        ([5, 6], SimpleNamespace(vec=vectors)),
        ([5], SimpleNamespace(vec={"clip_g": vectors})),
    ]
    with WebuiHost().borrow(SETTINGS) as model:
        assert (model.style.emphasis, model.style.comma_reach) == ("No norm", 7)
        (mine,) = model.style.embeddings
        assert mine.name == (5, 6)
        assert mine.vectors[0] is vectors
        assert model.clip_skip == 2
    with WebuiHost().borrow(settings_for(webui, clip_skip=1)) as model:
        assert model.clip_skip == 1


@pytest.mark.parametrize("family_webui", ["sdxl"], indirect=True)
def test_embeddings_for_two_text_encoders(family_webui: Webui) -> None:
    small, large = torch.randn(2, 64), torch.randn(2, 128)
    both = SimpleNamespace(vec={"clip_l": small, "clip_g": large})
    family_webui.embeddings[5] = [([5], both), ([5, 6], SimpleNamespace(vec=small))]
    with WebuiHost().borrow(settings_for(family_webui)) as model:
        (mine,) = model.style.embeddings
        assert [one is part for one, part in zip(mine.vectors, (small, large), strict=True)]
        assert model.clip_skip is None
        found = model.encode_weighted([model.prompts.tokenizer.decode([5])])
        assert found.context.shape == (1, 77, 192)


def test_a_result_makes_the_webui_encode_its_last_prompts_anew(
    webui: Webui, tmp_path: Path
) -> None:
    """It knows them by their LoRAs' names only; an overwritten file has another text encoder."""
    processing = webui.modules["processing"]
    kept = (
        processing.StableDiffusionProcessing.cached_c,
        processing.StableDiffusionProcessing.cached_uc,
        processing.StableDiffusionProcessingTxt2Img.cached_hr_c,
        processing.StableDiffusionProcessingTxt2Img.cached_hr_uc,
    )
    for cache in kept:
        cache[0], cache[1] = "the prompt <lora:hat:1>", torch.zeros(1)
    WebuiHost().published(tmp_path / "hat.safetensors")
    assert all(entry is None for cache in kept for entry in cache)
    assert [len(cache) for cache in kept] == [2, 2, 3, 3], "each webui has its own lengths"
    assert webui.networks.listed == 1


@pytest.mark.parametrize("family_webui", ["sdxl"], indirect=True)
def test_the_first_of_two_text_encoders_follows_clip_skip_where_it_is_set(
    family_webui: Webui,
) -> None:
    host, opts = WebuiHost(), family_webui.modules["shared"].opts
    opts.CLIP_stop_at_last_layers, opts.sdxl_clip_l_skip = 3, True
    settings = settings_for(family_webui)
    found = host.check_model(settings).family
    assert found is not None
    assert found.takes_clip_skip
    with host.borrow(settings) as model, torch.no_grad():
        assert model.clip_skip == 3
        context = model.encode_prompts(["a cat"]).context
        prompts, first = model.prompts, model.prompts.encoders[0]
        ids = torch.tensor([first.ids(prompts.tokens("a cat"), prompts.tokenizer)])
        layers = first.model(ids, output_hidden_states=True).hidden_states
        torch.testing.assert_close(context[..., :64], layers[-3], rtol=0, atol=0)
    opts.sdxl_clip_l_skip = False
    with host.borrow(settings) as model, torch.no_grad():
        assert model.clip_skip is None
        fixed = model.encode_prompts(["a cat"]).context
    torch.testing.assert_close(fixed[..., :64], layers[-2], rtol=0, atol=0)
    torch.testing.assert_close(fixed[..., 64:], context[..., 64:], rtol=0, atol=0)


def test_settings_say_where_things_are_written(webui: Webui, tmp_path: Path) -> None:
    host, opts = WebuiHost(), webui.modules["shared"].opts
    assert host.log_dir == tmp_path / "trainyard/logs"
    opts.trainyard_log_folder = str(tmp_path / "elsewhere")
    opts.trainyard_subfolder = "mine"
    assert host.log_dir == tmp_path / "elsewhere"
    assert host.output_dir == tmp_path / "models/Lora/mine"


def test_numbers_that_were_emptied_in_the_settings_are_the_usual_ones(webui: Webui) -> None:
    """The webui keeps None for them."""
    opts = webui.modules["shared"].opts
    opts.trainyard_idle_s = opts.trainyard_cache_disk_mb = None
    job = parse({"method": "lora", "checkpoint": "one", "images": "x"})
    assert within_limits(job) == job
    with WebuiHost().borrow(SETTINGS, control := Control()):
        assert control.checkpoint() is Request.CONTINUE


def test_settings_limit_every_jobs_cache(webui: Webui) -> None:
    opts = webui.modules["shared"].opts
    opts.trainyard_cache_folder, opts.trainyard_cache_disk_mb = "/fast", 1000.0
    job = parse({"method": "lora", "checkpoint": "one", "images": "x"})
    limited = within_limits(job)[CacheSettings]
    assert (limited.cache_folder, limited.cache_disk_mb) == ("/fast", 1000)
    own = within_limits(job.replace(cache_folder="/own", cache_disk_mb=10))[CacheSettings]
    assert (own.cache_folder, own.cache_disk_mb) == ("/own", 10)
    without = parse({"method": "ileco", "checkpoint": "one", "original_prompt": "a"})
    assert within_limits(without).method == "ileco"


@pytest.mark.parametrize("marks", [(), ("v_pred",), ("v_pred", "ztsnr")])
def test_marks_in_the_file_count_where_the_webui_does_not_know_them(
    files: dict[str, Path], tmp_path: Path, marks: tuple[str, ...]
) -> None:
    file = tmp_path / "marked.safetensors"
    tensors = read_tensors(files["one"])
    save_file({**tensors, **{mark: torch.ones(1) for mark in marks}}, file)
    WEBUI.start(tmp_path, {"one": file})
    with WebuiHost().borrow(settings_for(WEBUI)) as model:
        velocity = model.schedule.prediction_type == "v_prediction"
        assert velocity is ("v_pred" in marks)
        assert (model.schedule.alphas_cumprod[-1] == 0) == ("ztsnr" in marks)

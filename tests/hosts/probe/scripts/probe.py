"""An extension for tests alone: tells what the live model is, tensor by tensor."""

import hashlib
import importlib
import json
import sys
import urllib.request
from pathlib import Path

import open_clip
import torch
from modules import call_queue, devices, script_callbacks, sd_models, shared

# the sizes of the tiny models' text encoders, which their yaml files name
open_clip.add_model_config(Path(__file__).parents[1] / "open_clip")


def fingerprint() -> dict:
    """Digests of all weights, and whatever else a training could leave behind."""
    with call_queue.queue_lock:
        live = sd_models.model_data.sd_model
        model = whole(live)
        digest = hashlib.sha256()
        hooks = 0
        for name, tensor in sorted(
            {**dict(model.named_parameters()), **dict(model.named_buffers())}.items()
        ):
            digest.update(name.encode())
            digest.update(f"{tensor.dtype} {tensor.device} {tensor.requires_grad}".encode())
            numbers = tensor.detach().cpu().contiguous().flatten()
            digest.update(numbers.view(torch.uint8).numpy().tobytes())
        for module in model.modules():
            hooks += len(module._forward_hooks) + len(module._forward_pre_hooks)
            # tomesd gives a layer another class, tiling another padding
            digest.update(f"{type(module).__name__} {module.training}".encode())
            digest.update(str(getattr(module, "padding_mode", "")).encode())
        return {
            "weights": digest.hexdigest(),
            "hooks": hooks,
            "grads": sum(p.grad is not None for p in model.parameters()),
            "checkpoint": live.sd_checkpoint_info.name,
            "chosen": shared.opts.sd_model_checkpoint,
        }


def whole(live: object) -> torch.nn.Module:
    """The live model as one module; Forge's lies in parts behind patchers."""
    parts = getattr(live, "forge_objects_original", None)
    if parts is None:
        return live
    modules = (parts.unet.model, parts.clip.cond_stage_model, parts.vae.first_stage_model)
    return torch.nn.ModuleList(modules)


def conditioning(prompt: str) -> dict:
    """How far what Trainyard makes of a prompt is from what the webui makes of it."""
    with call_queue.queue_lock, torch.no_grad(), devices.autocast():
        live = shared.sd_model
        if hasattr(live, "set_clip_skip"):  # Forge: as before every picture
            live.set_clip_skip(int(shared.opts.CLIP_stop_at_last_layers))
        told = live.get_learned_conditioning([prompt])
        vector = told["vector"].float().clone() if isinstance(told, dict) else None
        theirs = (told["crossattn"] if isinstance(told, dict) else told).float().clone()
        name = live.sd_checkpoint_info.name
    host = sys.modules["trainyard.hosts.a1111"].WebuiHost()
    settings = sys.modules["trainyard.settings.groups"].ModelSettings(checkpoint=name)
    with host.borrow(settings) as model, torch.no_grad():
        found = model.encode_weighted([prompt])
        plain = model.encode_prompts([prompt]).context.float()
    ours = found.context.float()
    same_shape = ours.shape == theirs.shape
    moved = plain.shape != ours.shape or not torch.equal(plain, ours)
    far = float((ours - theirs).abs().max()) if same_shape else None
    if far is not None and vector is not None:
        pooled = found.pooled.float()
        far = max(far, float((pooled - vector[:, : pooled.shape[1]]).abs().max()))
    return {"shape": list(ours.shape), "far": far, "moved": moved}


def networks() -> dict:
    """How many layers of each LoRA of the last picture the webui has found a place for."""
    live = sd_models.model_data.sd_model
    loaded = sys.modules["networks"].loaded_networks
    parts = getattr(live, "forge_objects_after_applying_lora", None)
    if parts is None:
        return {one.name: len(one.modules) for one in loaded}
    places = sum(len(_patched(one)) for one in (parts.unet, parts.clip.patcher))
    return {one.name: places for one in loaded}  # there is one at most


def _patched(patcher: object) -> list:
    """The weights of a part of Forge's or reForge's model that something is worked into."""
    patches = getattr(patcher, "lora_patches", {"": getattr(patcher, "patches", {})})
    return [weight for places in patches.values() for weight in places]


def stop_in(place: str, save: bool) -> dict:
    """Ends the next job as a user does, in the moment in which it comes to a place.

    Args:
        place: a function of Trainyard, such as "models.model:DiffusionModel.denoise".
    """
    module, _, path = place.partition(":")
    owner = importlib.import_module(f"trainyard.{module}")
    *owners, name = path.split(".")
    for one in owners:
        owner = getattr(owner, one)
    function = getattr(owner, name)
    base = f"http://127.0.0.1:{shared.cmd_opts.port}/trainyard/v1"
    headers = {"Content-Type": "application/json", "X-Trainyard": "1"}

    def stopped(*args, **kwargs):
        setattr(owner, name, function)
        with urllib.request.urlopen(f"{base}/status") as answer:
            job = json.load(answer)["job"]["id"]
        body = json.dumps({"save": save}).encode()
        request = urllib.request.Request(f"{base}/jobs/{job}/stop", body, headers)
        with urllib.request.urlopen(request) as answer:
            answer.read()
        return function(*args, **kwargs)

    setattr(owner, name, stopped)
    return {}


def changed() -> dict:
    """What the webui has done to the live model by its settings."""
    model = sd_models.model_data.sd_model
    return {
        "in_8_bits": sum(p.element_size() == 1 for p in whole(model).parameters()),
        "hypernetworks": len(getattr(shared, "loaded_hypernetworks", ())),
        "tokens_merged": getattr(model, "applied_token_merged_ratio", 0),
    }


def out_of_memory() -> dict:
    """Makes the next training end as on a GPU whose memory is full."""
    loop = sys.modules["trainyard.training.loop"].Loop
    run = loop.run

    def fail(*_: object, **__: object) -> None:
        loop.run = run
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    loop.run = fail
    return {}


def routes(_, app) -> None:
    app.add_api_route("/probe", fingerprint, methods=["GET"])
    app.add_api_route("/probe/conditioning", conditioning, methods=["GET"])
    app.add_api_route("/probe/networks", networks, methods=["GET"])
    app.add_api_route("/probe/stop_in", stop_in, methods=["GET"])
    app.add_api_route("/probe/changed", changed, methods=["GET"])
    app.add_api_route("/probe/out_of_memory", out_of_memory, methods=["GET"])


script_callbacks.on_app_started(routes)

"""An extension for tests alone: tells what the live model is, tensor by tensor."""

import hashlib
import sys

import torch
from modules import call_queue, devices, script_callbacks, sd_models, shared


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
            digest.update(tensor.detach().cpu().contiguous().flatten().view(-1).numpy().tobytes())
        for module in model.modules():
            hooks += len(module._forward_hooks) + len(module._forward_pre_hooks)
            digest.update(f"{module.training}".encode())
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
            theirs = live.get_learned_conditioning([prompt]).float().clone()
        else:
            theirs = live.cond_stage_model([prompt]).float().clone()
        name = live.sd_checkpoint_info.name
    host = sys.modules["trainyard.hosts.a1111"].WebuiHost()
    settings = sys.modules["trainyard.settings.groups"].ModelSettings(checkpoint=name)
    with host.borrow(settings) as model, torch.no_grad():
        ours = model.encode_weighted([prompt]).context.float().clone()
        plain = model.encode_prompts([prompt]).context.float()
    same_shape = ours.shape == theirs.shape
    moved = plain.shape != ours.shape or not torch.equal(plain, ours)
    far = float((ours - theirs).abs().max()) if same_shape else None
    return {"shape": list(ours.shape), "far": far, "moved": moved}


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
    app.add_api_route("/probe/out_of_memory", out_of_memory, methods=["GET"])


script_callbacks.on_app_started(routes)

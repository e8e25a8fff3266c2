"""The names that the hosts use, looked up in the sources of real webuis, version by version.

WEBUI_SOURCES names checkouts, separated as in PATH: AUTOMATIC1111's webui of any version from 1.7
to 1.10.1, Forge, reForge.  WEBUI_DIR counts too.  Nothing of them is run.
"""

from __future__ import annotations

import ast
import logging
import os
import re
from functools import cache
from pathlib import Path

import pytest

from tests.hosts.real import kind
from trainer.models.prompts import parse

NAMED = os.environ.get("WEBUI_SOURCES", "") or os.environ.get("WEBUI_DIR", "")
SOURCES = [Path(name) for name in NAMED.split(os.pathsep) if name]
pytestmark = [
    pytest.mark.webui,
    pytest.mark.skipif(not SOURCES, reason="WEBUI_SOURCES names no webui"),
]

EVERYWHERE = {
    "modules/paths_internal.py": "data_path models_path",
    "modules/sd_models.py": "checkpoints_list checkpoint_aliases model_data reload_model_weights",
    "modules/processing.py": "StableDiffusionProcessing StableDiffusionProcessingTxt2Img",
    "modules/sd_vae.py": "vae_dict get_base_vae",
    "modules/shared.py": "opts cmd_opts OptionInfo",
    "modules/devices.py": "device torch_gc",
    "modules/call_queue.py": "queue_lock",
    "modules/fifo_lock.py": "FIFOLock",
    "modules/script_callbacks.py": "on_ui_settings on_ui_tabs on_app_started",
    "modules/errors.py": "report",
}
A1111 = {
    "modules/lowvram.py": "is_enabled send_everything_to_cpu",
    "modules/sd_hijack.py": "model_hijack EmbeddingsWithFixes",
    "extensions-builtin/Lora/networks.py": "loaded_networks network_apply_weights"
    " list_available_networks",
}
FORGE = {
    "modules/sd_models.py": "forge_model_reload",
    "backend/memory_management.py": "load_models_gpu",
    "modules_forge/main_entry.py": "module_list",
    "extensions-builtin/sd_forge_lora/networks.py": "load_networks load_lora_state_dict"
    " list_available_networks",
}
REFORGE = {
    "modules/sd_hijack.py": "model_hijack",
    "ldm_patched/modules/model_management.py": "load_models_gpu unload_all_models",
    "extensions-builtin/Lora/networks.py": "load_networks load_lora_state_dict"
    " list_available_networks",
}
ATTRIBUTES = {
    "A1111": {
        "modules/fifo_lock.py": "self._pending_threads",
        "modules/processing.py": "cached_c cached_uc cached_hr_c cached_hr_uc",
        "modules/sd_models.py": "self.ids self.filename self.sha256 self.hash self.title",
        "modules/shared_options.py": '"comma_padding_backtrack" "CLIP_stop_at_last_layers"',
        "modules/textual_inversion/textual_inversion.py": "self.ids_lookup self.vec",
        "extensions-builtin/Lora/networks.py": "network_current_names network_layer_name"
        " net.mtime network_on_disk",
    },
    "Forge": {
        "modules/fifo_lock.py": "self._pending_threads",
        "modules/processing.py": "cached_c cached_uc cached_hr_c cached_hr_uc",
        "modules/sd_models.py": "self.forge_loading_parameters sd_model.sd_checkpoint_info",
        "backend/diffusion_engine/base.py": "self.forge_objects_original self.model_config",
        "backend/diffusion_engine/sd15.py": "self.text_processing_engine 'clip_l'",
        "backend/diffusion_engine/sd20.py": "'clip_h'",
        "backend/diffusion_engine/sdxl.py": "self.text_processing_engine_l 'clip_g'",
        "backend/patcher/base.py": "def refresh_loras(",
        "backend/patcher/clip.py": "self.cond_stage_model self.patcher",
        "backend/patcher/vae.py": "self.first_stage_model",
        "backend/modules/k_model.py": "self.diffusion_model self.predictor",
        "backend/modules/k_prediction.py": "self.prediction_type 'v_prediction'",
        "backend/text_processing/textual_inversion.py": "self.ids_lookup self.vec",
        "backend/operations_gguf.py": "gguf_cls",
    },
    "reForge": {
        "modules/fifo_lock.py": "self._pending_threads",
        "modules/processing.py": "cached_c cached_uc cached_hr_c cached_hr_uc",
        "modules_forge/forge_loader.py": "sd_model.forge_objects_original sd_model.ztsnr"
        " sd_model.current_lora_hash clip_g.text_projection sd_model.sd_checkpoint_info",
    },
}


@cache
def names(file: Path) -> frozenset[str]:
    """What a module defines or imports at its top level, conditions and `try` included."""
    found: set[str] = set()
    open_blocks: list[ast.AST] = [ast.parse(file.read_text("utf-8"))]
    while open_blocks:
        for node in ast.iter_child_nodes(open_blocks.pop()):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                found.update((one.asname or one.name) for one in node.names)
            elif isinstance(node, (ast.If, ast.Try)):
                open_blocks.append(node)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update(n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name))
    return frozenset(found)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_the_modules_define_what_is_used(source: Path) -> None:
    own = {"A1111": A1111, "Forge": FORGE, "reForge": REFORGE}[kind(source)]
    missing = [
        f"{file}: {name}"
        for table in (EVERYWHERE, own)
        for file, listed in table.items()
        for name in listed.split()
        if name not in names(source / file)
    ]
    assert not missing


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_the_objects_have_what_is_used(source: Path) -> None:
    texts = ATTRIBUTES[kind(source)]
    missing = [
        f"{file}: {text}"
        for file, listed in texts.items()
        for text in re.findall(r"def \w+\(|\S+", listed)
        if text not in (source / file).read_text("utf-8")
    ]
    assert not missing


PROMPTS = (
    "a (red:1.3) [cat], ((big)) dog",
    r"a \(b\) \[c\] \\ \d (x\))",
    "(((a)", "a)) b]", "[[x:1.2)", "(a:1.5 ) : b", "a BREAK b  BREAK (c:.5)", "(:1.2)", "", " ",
    "(a [b) c]", "a:1.2) b", "((a:2):0.5)", "BREAKFAST BREAK", "(a, b:-1)",
    "(a BREAK b)", "[BREAK a] (b:-1)BREAK", "((BREAK)) c BREAK BREAK d", r"(a \BREAK b",
)  # fmt: skip


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_prompts_are_read_as_by_the_webuis_parser(source: Path) -> None:
    """Its function alone is run."""
    wanted = {"re_attention", "re_break", "parse_prompt_attention"}
    tree = ast.parse((source / "modules/prompt_parser.py").read_text("utf-8"))
    kept = [
        node
        for node in tree.body
        if getattr(node, "name", "") in wanted
        or (isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in wanted)
    ]
    space: dict[str, object] = {"re": re, "logging": logging}
    exec(compile(ast.Module(kept, []), "prompt_parser", "exec"), space)
    theirs = space["parse_prompt_attention"]
    for prompt in PROMPTS:
        expected = [(text, weight) for text, weight in theirs(prompt) if text]  # type: ignore[operator]
        found = [(piece.text, piece.weight) for piece in parse(prompt)]
        assert [text for text, _ in found] == [text for text, _ in expected], prompt
        assert [w for _, w in found] == pytest.approx([w for _, w in expected]), prompt

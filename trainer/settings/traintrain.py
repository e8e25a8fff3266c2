"""Import of TrainTrain's presets.

Such a file is one JSON object of that tool's parameter names (known here as aliases), its values
mostly texts, with `mode`, `model`, `vae` and two prompts beside them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import BadInput, Problem
from .checks import broken_rules
from .groups import BLOCKS
from .methods import METHODS
from .schema import PARAMETERS, SECOND_PASS, in_second_pass, ours
from .values import BadValueError, Value, as_json, listed, proposal, read_bool, shown

LOSES_NOTHING = frozenset(
    {
        "mode",  # becomes the method
        "2nd pass",  # read where use_2nd_pass_settings switches it on
        "use_2nd_pass_settings",
        "logging_verbose",  # the log is complete anyway
        "save_as_json",  # every result carries its settings anyway
        "network_train_text_encoder",  # TrainTrain never reads it
    }
)
INHERITING = ("train_textencoder_learning_rate", "network_conv_rank", "network_conv_alpha")
"""Where 0 stands for another parameter's value, as an empty field does here."""
UNREAD: Mapping[str, frozenset[str]] = {
    "ileco": frozenset(
        {
            *("lora_data_directory", "lora_trigger_word", "diff_target_name"),
            *("image_buckets_step", "image_num_multiply", "image_min_length", "image_max_ratio"),
            *("sub_image_num", "image_mirroring", "image_use_filename_as_tag"),
            "image_disable_upscale",
        }
    )
}
"""What TrainTrain writes into every preset and does not use in a method; here by ours."""
NEUTRAL: Mapping[str, float] = {"diff_alt_ratio": 1.0}
"""Values other than empty, off and 0 that change nothing."""


@dataclass(frozen=True)
class Imported:
    """What became of a foreign preset."""

    values: dict[str, object]
    """A preset of ours."""
    lost: tuple[Problem, ...]
    """What could not be taken over, each by its name in the foreign file."""


def is_traintrain(raw: Mapping[str, object]) -> bool:
    """Whether an object is a preset of TrainTrain rather than one of ours."""
    return "method" not in raw and "mode" in raw and any("train_iterations" in key for key in raw)


def import_traintrain(raw: Mapping[str, object]) -> Imported:
    """Turn a TrainTrain preset into one of ours.

    An empty value there means the default, so it is left out here; a value that only Trainyard
    has no use for is reported when it would have had an effect.

    Raises:
        BadInput: its mode is none of our methods.
    """
    method = _method(raw.get("mode"))
    values, lost = _values(method, raw)
    if method == "addift":
        values |= _trained_blocks(values)
    imported: dict[str, object] = {"method": method}
    imported |= {name: as_json(value) for name, value in values.items()}
    switch, nested = "use_2nd_pass_settings", raw.get("2nd pass")
    if not _says_nothing(switch, raw.get(switch), known=False):
        if METHODS[method].second_pass and isinstance(nested, Mapping):
            imported[SECOND_PASS], more = _second_pass(method, nested, values)
            lost += [Problem(f"2nd pass, {p.where}", p.what, p.cure) for p in more]
        else:
            lost.append(Problem("2nd pass", "was not taken over", "set it by hand"))
    return Imported(imported, tuple(lost))


def _second_pass(
    method: str, raw: Mapping[str, object], first: Mapping[str, Value]
) -> tuple[dict[str, object], list[Problem]]:
    """What it has of its own, and what of that could not be taken over."""
    values, lost = _values(method, raw)
    own = {name: value for name, value in values.items() if value != first.get(name)}
    cure = "both passes have the same one here"
    lost += [
        Problem(key, f"{shown(foreign)} was not taken over", cure)
        for key, foreign in raw.items()
        if (name := ours(key)) in own and PARAMETERS[name].whole_run
    ]
    settable = {n: as_json(v) for n, v in own.items() if in_second_pass(PARAMETERS[n], method)}
    return settable, lost


def _values(method: str, raw: Mapping[str, object]) -> tuple[dict[str, Value], list[Problem]]:
    """The values of one pass by our names, and what could not be taken over."""
    values: dict[str, Value] = {}
    foreign_names: dict[str, str] = {}
    lost: list[Problem] = []
    for key, foreign in raw.items():
        name = ours(key)
        used = name in PARAMETERS and method in PARAMETERS[name].methods
        idle = key in LOSES_NOTHING or key in UNREAD.get(method, ())
        if idle or _says_nothing(key, foreign, known=used):
            continue
        if not used:
            cure = f"{METHODS[method].title} has no such parameter here"
            lost.append(Problem(key, f"{shown(foreign)} was not taken over", cure))
            continue
        try:
            values[name] = PARAMETERS[name].read(_translated(key, foreign))
            foreign_names[name] = key
        except BadValueError as refused:
            lost.append(Problem(key, f"{refused.what}; not taken over", refused.cure))
    for problem in broken_rules(values):
        values.pop(problem.where, None)
        what = f"{problem.what}; not taken over"
        lost.append(Problem(foreign_names.get(problem.where, problem.where), what, problem.cure))
    return values, lost


def _trained_blocks(values: Mapping[str, Value]) -> dict[str, Value]:
    """Without a trigger word TrainTrain leaves BASE out of ADDifT, whatever its presets name.

    Source: its trainer.py, `mode_fixer`; Multi-ADDifT is as the preset says.
    """
    blocks = values.get("blocks", BLOCKS)
    if values.get("trigger_word") or not isinstance(blocks, tuple) or "BASE" not in blocks:
        return {}
    others = tuple(str(block) for block in blocks if block != "BASE")
    return {"blocks": others} if others else {}


def _method(mode: object) -> str:
    known = {alias: name for name, info in METHODS.items() for alias in info.aliases}
    if isinstance(mode, str):
        for alias, name in known.items():
            if alias.casefold() == mode.strip().casefold():
                return name
    close = proposal(mode, tuple(known)) if isinstance(mode, str) else ""
    cure = f"did you mean {close}?" if close else f"known: {listed(tuple(known))}"
    raise BadInput([Problem("mode", f"{shown(mode)} cannot be imported", cure)])


def _says_nothing(key: str, foreign: object, *, known: bool) -> bool:
    """Whether leaving a value out changes nothing."""
    if foreign is None or foreign == "" or (key == "vae" and foreign in ("None", "Automatic")):
        return True
    number: object = foreign
    if isinstance(foreign, str) and re.fullmatch(r"[0-9.]+", foreign):
        number = float(foreign) if foreign.count(".") <= 1 and foreign != "." else foreign
    if key in INHERITING:
        return number == 0
    return not known and (number in (0, False, "False", "false") or number == NEUTRAL.get(key))


def _translated(key: str, foreign: object) -> object:
    """A value in our words, where they differ from TrainTrain's."""
    if key == "model" and isinstance(foreign, str):
        return re.sub(r"\s*\[[0-9a-f]+\]$", "", foreign)  # the webui appends a short hash
    if key == "model_v_pred":
        return "v_prediction" if read_bool(foreign) else "auto"
    if key == "diff_use_diff_mask":
        return "difference" if read_bool(foreign) else "none"
    return foreign

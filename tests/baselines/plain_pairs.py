"""Difference and ADDifT in their plainest form, as facts/traintrain.md describes the peer's.

Their algorithms are ours with these settings: all layers, the empty prompt, the pair as it is, and
the numbers of its presets.  Steps and batch stay the task's, so that both have the same budget;
the learning rate too, because the preset's is made for models five to twenty times wider.
"""

from __future__ import annotations

from trainer.settings.groups import BLOCKS

PLAIN: dict[str, object] = {
    "original_prompt": "",
    "placements": 1,
    "blocks": list(BLOCKS),
    "element": "Full",
}
ADDIFT: dict[str, object] = {
    **PLAIN,
    "rank": 4,
    "alpha": 1,
    "direction_strength": 0.25,
    "min_timestep": 500,
    "max_timestep": 1000,
}
"""The preset ADDifT action SD1.5, which is meant for what is in the picture."""
MULTI_ADDIFT = {name: value for name, value in ADDIFT.items() if name != "original_prompt"}
"""The same for the pairs of a folder; their captions, which the peer drops, are left to it."""
DIFFERENCE: dict[str, object] = {
    **PLAIN,
    "rank": 16,
    "alpha": 16,
    "second_pass": {"rank": 4, "alpha": 4, "steps": 100, "batch_size": 4},
}
"""The preset Difference, second pass."""

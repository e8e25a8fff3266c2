"""The differences between Gradio 3.41 and 4.40, as far as the tab meets them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

GRADIO_MAJOR = int(gr.__version__.partition(".")[0])

PAIRS = GRADIO_MAJOR >= 4
"""Whether the page holds a dropdown's choices as pairs of label and value."""


def listen(
    event: Callable[..., Any],
    function: Callable[..., Any] | None,
    *,
    javascript: str,
    inputs: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
) -> None:
    """Attaches a listener to an event such as `button.click`.

    Args:
        event: the component's method for the event.
        function: what runs on the server, or None for something that the page does alone.
        javascript: a function of the inputs' values that runs in the page first; what it returns
            takes the inputs' places.
        inputs: components.
        outputs: components.
    """
    options: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    options["_js" if GRADIO_MAJOR < 4 else "js"] = javascript
    if GRADIO_MAJOR >= 4:
        options["concurrency_limit"] = None
    event(function, inputs=list(inputs), outputs=list(outputs), **options)


def dropdown(choices: Sequence[str], *, free: bool, **options: Any) -> gr.Dropdown:
    """A dropdown; a `free` one also takes values that are not in its list."""
    return gr.Dropdown(choices=list(choices), allow_custom_value=free, **options)


def on_load(tab: gr.Blocks, javascript: str) -> None:
    """Runs a function in the page when it has been loaded."""
    listen(tab.load, None, javascript=javascript)

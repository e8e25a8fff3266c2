"""The tab: the form made from the schema, and the places that the page's scripts fill.

Gradio draws the fields; whatever answers, checks or moves is done by javascript/ and the routes of
`trainer.api`, which behave alike in every Gradio version and wait for no generation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from ..api.yard import Yard
from ..settings.form import Field, layout
from ..settings.methods import METHODS
from . import pages
from .compat import PAIRS, listen
from .fields import classes, component

COLLECT = "(...values) => { window.trainyard.take(values); return []; }"
APPLY = "() => window.trainyard.give()"


def build(yard: Yard, *, standalone: bool = False) -> gr.Blocks:
    """Makes the tab; needs neither torch nor a checkpoint.

    Args:
        yard: whose jobs the tab shows.
        standalone: whether this is a page of its own, outside a webui.
    """
    method, offers = next(iter(METHODS)), yard.choices()
    with gr.Blocks(analytics_enabled=False, title="Trainyard") as tab:
        with gr.Column(elem_id="trainyard_root"):
            with gr.Column(elem_id="trainyard_form"):
                gr.HTML(pages.page_facts(method, local=standalone, pairs=PAIRS))
                fields = _form(method, offers)
            with gr.Column(elem_id="trainyard_right"):
                with gr.Column(elem_id="trainyard_side"):
                    gr.HTML(pages.RUN)
                with gr.Column(elem_id="trainyard_history"):
                    gr.HTML(pages.QUEUE)
                    gr.HTML(pages.RESULTS)
        _wire(fields)
    return tab


def _form(method: str, offers: Mapping[str, Sequence[str]]) -> list[Any]:
    """Draws the form; returns its components in the order of `layout().fields`."""
    plan = layout()

    def draw(some: Sequence[Field]) -> list[Any]:
        return [component(field, method, offers) for field in some]

    gr.HTML(pages.heading("Method", "What do you want to make?"))
    gr.HTML(pages.cards(method))
    gr.HTML(pages.PRESETS)
    gr.HTML(pages.heading("What to learn", "Point to what it learns from, and name the result."))
    with gr.Column(elem_id="trainyard_what", elem_classes=["trainyard_grid"]):
        fields = draw(plan.what)
    gr.HTML(pages.PICTURE_PANEL)
    gr.HTML(pages.heading("How", "Good values to begin with are set already."))
    with gr.Column(elem_id="trainyard_how", elem_classes=["trainyard_grid"]):
        fields += draw(plan.how)
    gr.HTML(pages.heading("More", "Everything else. Nothing here has to be changed."))
    gr.HTML(pages.SEARCH + pages.JUMP)
    for group in plan.more:
        with (
            gr.Accordion(
                group.title,
                open=False,
                elem_id=f"trainyard_group_{group.name}",
                elem_classes=["trainyard_group", *classes(group.methods)],
            ),
            gr.Column(elem_classes=["trainyard_grid"]),
        ):
            fields += draw(group.fields)
    return fields


def _wire(fields: Sequence[Any]) -> None:
    """Two hidden buttons through which the scripts read and write all fields at once."""
    collect = gr.Button("collect", elem_id="trainyard_collect", elem_classes=["trainyard_hidden"])
    apply = gr.Button("apply", elem_id="trainyard_apply", elem_classes=["trainyard_hidden"])
    for button in (collect, apply):
        button.do_not_save_to_config = True
    listen(collect.click, None, javascript=COLLECT, inputs=fields)
    listen(apply.click, None, javascript=APPLY, outputs=fields)

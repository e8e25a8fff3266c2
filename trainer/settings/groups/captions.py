"""Parameters of captions: their length, and how they change from batch to batch."""

from __future__ import annotations

from dataclasses import dataclass

from ..fields import parameter


@dataclass(frozen=True, kw_only=True)
class LengthSettings:
    """How long prompts and captions may be."""

    max_prompt_tokens: int = parameter(
        225,
        minimum=1,
        maximum=7500,
        help="Longest prompt in tokens (a word is one to three); windows of 75 are encoded one by"
        " one, as the webui does.",
        aliases=("max_token_length",),
    )
    truncate_prompts: bool = parameter(
        False,
        help="Cut a prompt that is too long instead of refusing it.",
    )


@dataclass(frozen=True, kw_only=True)
class CaptionSettings(LengthSettings):
    """How captions are read, and varied each time a picture comes."""

    caption_prefix: str = parameter(
        "",
        help="Text that is put before every caption, behind the trigger word; not before those of"
        " regularisation pictures. Usually empty.",
    )
    caption_suffix: str = parameter(
        "",
        help="Text that is put behind every caption, for example ', oil painting'. Usually empty.",
    )
    shuffle_tags: bool = parameter(
        False,
        help="Mix the order of a caption's tags (the parts between commas) each time, so that none"
        " counts more for standing first. Good for tags, not for sentences.",
        aliases=("shuffle_caption",),
    )
    keep_tokens: int = parameter(
        0,
        title="Keep tags in front",
        minimum=0,
        maximum=225,
        help="So many tags at a caption's beginning stay there, and are never dropped, when tags"
        " are mixed or dropped. The trigger word stays in any case.",
    )
    keep_tokens_separator: str = parameter(
        "",
        title="Keep tags up to",
        help="Instead of a number: a mark in the captions, such as |||, before which all tags stay."
        " A second mark begins tags that stay at the end.",
    )
    secondary_separator: str = parameter(
        "",
        title="Tags that stay together",
        help="A mark in the captions, such as ;;, that holds tags together when they are mixed or"
        " dropped; it becomes a comma afterwards. Usually empty.",
    )
    tag_dropout_rate: float = parameter(
        0.0,
        minimum=0,
        maximum=1,
        help="Share of the tags that are left out each time, so that what they name is learnt"
        " without them too. 0 to 0.1.",
        aliases=("caption_tag_dropout_rate",),
    )
    caption_dropout_rate: float = parameter(
        0.0,
        minimum=0,
        maximum=1,
        help="How often a picture is trained without its whole caption, so that a style shows"
        " without being called. 0 to 0.1.",
    )
    caption_dropout_every_epochs: int = parameter(
        0,
        minimum=0,
        maximum=1_000_000,
        help="Train one epoch in so many without captions. 0: never.",
        aliases=("caption_dropout_every_n_epochs",),
    )
    wildcards: bool = parameter(
        False,
        help="Draw one of a caption file's lines each time, and one of the words in {red|blue}."
        " Double brackets, {{ and }}, are plain ones.",
        aliases=("enable_wildcard",),
    )
    caption_emphasis: bool = parameter(
        False,
        help="Read captions in the webui's prompt syntax: (word:1.2) counts more, BREAK begins a"
        " new window. Off: brackets are plain brackets, as in tags such as miku_(vocaloid).",
        aliases=("weighted_captions",),
    )

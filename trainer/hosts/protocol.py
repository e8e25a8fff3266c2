"""What Trainyard asks of the program that it runs in: a webui, or its own command line."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..settings.groups import ModelSettings

if TYPE_CHECKING:
    from ..models.model import DiffusionModel


class Host(Protocol):
    """The surroundings of a job."""

    @property
    def output_dir(self) -> Path:
        """Where results belong: a webui's Lora folder."""

    @property
    def log_dir(self) -> Path:
        """Where logs belong."""

    def check_model(self, settings: ModelSettings) -> str:
        """Looks at checkpoint and VAE without loading them.

        Returns:
            What the checkpoint is, in words.

        Raises:
            BadInput: a file is unknown, damaged, or nothing that can be trained on.
        """

    def borrow(self, settings: ModelSettings) -> AbstractContextManager[DiffusionModel]:
        """The model for the length of a `with` block; afterwards the host is as it was.

        Raises:
            BadInput: as `check_model`.
        """

"""What Trainyard asks of the program that it runs in: a webui, or its own command line."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..control import Control
from ..settings.groups import ModelSettings

if TYPE_CHECKING:
    from ..models.detect import Detection
    from ..models.model import DiffusionModel


class Host(Protocol):
    """The surroundings of a job."""

    @property
    def output_dir(self) -> Path:
        """Where results belong: a webui's Lora folder."""

    @property
    def log_dir(self) -> Path:
        """Where logs belong."""

    def check_model(self, settings: ModelSettings) -> Detection:
        """Looks at checkpoint and VAE without loading them.

        Returns:
            What the checkpoint is; its family is known.

        Raises:
            BadInput: a file is unknown, damaged, or nothing that can be trained on.
        """

    def borrow(
        self, settings: ModelSettings, control: Control | None = None
    ) -> AbstractContextManager[DiffusionModel]:
        """The model for the length of a `with` block; afterwards the host is as it was.

        Args:
            control: the job's; a host that shares its machine sets its `give_way`.

        Raises:
            BadInput: as `check_model`.
        """

    def published(self, path: Path) -> None:
        """A result and what belongs to it lie at `path`: the host may show it."""

    def checkpoints(self) -> list[str]:
        """Names to choose from for the parameter `checkpoint`."""

    def vaes(self) -> list[str]:
        """Names to choose from for the parameter `vae`."""

    def loras(self) -> list[str]:
        """Paths to choose from where a LoRA file is wanted."""

    def loaded_checkpoint(self) -> str:
        """The checkpoint that the user works with now; empty when there is none."""

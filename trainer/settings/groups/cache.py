"""Parameters of what is kept of pictures and captions once they are encoded."""

from __future__ import annotations

from dataclasses import dataclass

from ..fields import parameter


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Where encoded pictures and captions are kept."""

    cache_memory_mb: int = parameter(
        512,
        title="Cache in memory",
        minimum=0,
        maximum=1_000_000,
        unit="MB",
        help="Encoded pictures, and as much of encoded captions, that are kept in the training"
        " device's memory. What takes more lies on disk, where a later training finds it again"
        " and starts at once. 0: always on disk.",
    )
    cache_disk_mb: int = parameter(
        20_480,
        title="Cache on disk",
        minimum=1,
        maximum=100_000_000,
        unit="MB",
        help="How large the cache on disk may grow; what was not used for the longest time is then"
        " removed. What the present training needs is never removed.",
    )
    cache_folder: str = parameter(
        "",
        help="Folder of the cache on disk; best on a fast disk. Empty: a folder named cache beside"
        " the logs. It may be deleted: what a training then lacks, it encodes again.",
        picks="folder",
    )

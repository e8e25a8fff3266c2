"""Settings written by older versions, brought up to date.

A job or preset may carry `settings_version`; without it, it is taken to be of the current version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..errors import Problem
from .values import BadValueError, read_int, shown

Migration = Callable[[dict[str, object]], dict[str, object]]

VERSION_KEY = "settings_version"
MIGRATIONS: tuple[Migration, ...] = ()
"""The one at index i leads from version i + 1 to version i + 2."""
SETTINGS_VERSION = len(MIGRATIONS) + 1


def migrate(
    raw: Mapping[str, object], migrations: Sequence[Migration] = MIGRATIONS
) -> tuple[dict[str, object], list[Problem]]:
    """Bring settings up to the current version, which is one more than there are migrations.

    Returns:
        The settings without their version, and what is wrong with the version.
    """
    settings = {str(name): value for name, value in raw.items() if name != VERSION_KEY}
    current = len(migrations) + 1
    try:
        version = read_int(raw.get(VERSION_KEY, current))
    except BadValueError as refused:
        return settings, [Problem(VERSION_KEY, refused.what, refused.cure)]
    if version < 1:
        return settings, [Problem(VERSION_KEY, f"{shown(version)} is below 1", "remove it")]
    if version > current:
        what = f"{shown(version)} is newer than this Trainyard, which knows version {current}"
        return settings, [Problem(VERSION_KEY, what, "update Trainyard")]
    for migration in migrations[version - 1 :]:
        settings = migration(settings)
    return settings, []

from __future__ import annotations

import pytest

from tests.modules import FULL_UNETS
from tests.networks.small_models import Model, full_model, shared_model


@pytest.fixture(scope="session")
def full_models() -> dict[str, Model]:
    return {family: full_model(family) for family in FULL_UNETS}


@pytest.fixture
def model() -> Model:
    """A small SD1 model; networks must leave it as it is."""
    return shared_model("sd1")

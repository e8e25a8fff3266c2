from __future__ import annotations

import pytest
from small_models import FULL_UNETS, Model, full_model, small_model


@pytest.fixture(scope="session")
def full_models() -> dict[str, Model]:
    return {family: full_model(family) for family in FULL_UNETS}


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Model:
    """A small SD1 model, or of the family that the test names by `indirect`."""
    return small_model(getattr(request, "param", "sd1"))

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from search.process_variables import with_training_variables

os.environ.update(with_training_variables(os.environ))
# On a busy machine, drawing takes seconds: that says nothing of what is tested.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
# For `pytest --hypothesis-profile long`: minutes instead of seconds.
settings.register_profile("long", max_examples=400, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def _threads_of_one_test_are_not_those_of_the_next() -> Iterator[None]:
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)

from __future__ import annotations

from hypothesis import HealthCheck, settings

# For `pytest --hypothesis-profile long`: minutes instead of seconds.
settings.register_profile("long", max_examples=400, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck))

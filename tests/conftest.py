"""What all tests share."""

from __future__ import annotations

import pytest
from hypothesis import settings

# Before any test imports them: what they assert is then told as well as what a test asserts.
pytest.register_assert_rewrite("tests.support")

# No test asserts on a speed: a busy machine is not a failure.
settings.register_profile("trainyard", deadline=None)
settings.load_profile("trainyard")

"""The first example of each guide runs as it stands there."""

from __future__ import annotations

import pytest
import yaml

from tests.e2e.testbed import Testbed
from tests.unit.test_docs import FENCE, text_of

SECONDS = 300.0


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("guide", ["distributedjob.md", "federatedjob.md"])
async def test_the_example_of_a_guide_trains_to_its_target(testbed: Testbed, guide: str) -> None:
    example = next(code for language, code in FENCE.findall(text_of(guide)) if language == "yaml")
    manifest = yaml.safe_load(example)
    await testbed.create_job(manifest)
    job = await testbed.wait_for_completion(manifest["metadata"]["name"], SECONDS)
    target = job["spec"]["training"]["target"]
    assert job["status"]["training"]["evaluation"][target["metric"]] >= target["value"]

"""Code that is not in the image: a ConfigMap's modules, and packages installed by each worker."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from tests.e2e.conftest import digits
from tests.e2e.testbed import TASKS, Testbed
from tests.support.testbed import condition
from tests.support.wheels import write_wheel

FILE = "borrowing.py"


async def provide(testbed: Testbed, folder: Path) -> dict[str, Any]:
    """Put a module and a wheel on ConfigMaps; returns the spec of a job with both."""
    wheel = write_wheel(folder, "ty_borrowed", "16.0", "torch")
    await testbed.create(
        "configmaps", {"metadata": {"name": "code"}, "data": {FILE: (TASKS / FILE).read_text()}}
    )
    encoded = base64.b64encode(wheel.read_bytes()).decode()
    await testbed.create(
        "configmaps", {"metadata": {"name": "wheels"}, "binaryData": {wheel.name: encoded}}
    )
    template = {
        "env": [
            {"name": "UV_NO_INDEX", "value": "1"},
            {"name": "UV_FIND_LINKS", "value": "/wheels"},
        ],
        "volumes": [{"name": "wheels", "configMap": {"name": "wheels"}}],
        "volumeMounts": [{"name": "wheels", "mountPath": "/wheels", "readOnly": True}],
    }
    return {
        "task": {"entrypoint": "borrowing:Borrowing"},
        "workers": {"replicas": 2, "template": template},
        "training": {"epochs": 3},
        "failure": {"maxRestarts": 0},
    }


async def test_a_task_without_an_image_of_its_own_trains(testbed: Testbed, tmp_path: Path) -> None:
    spec = await provide(testbed, tmp_path)
    code = {"configMap": "code", "requirements": ["ty_borrowed>=16"]}
    await testbed.create_job(digits("borrowing", **spec, code=code))
    await testbed.wait_for_completion("borrowing")


async def test_a_requirement_that_cannot_be_installed_is_named(
    testbed: Testbed, tmp_path: Path
) -> None:
    spec = await provide(testbed, tmp_path)
    code = {"configMap": "code", "requirements": ["ty_borrowed>=17"]}
    await testbed.create_job(digits("refused", **spec, code=code))
    failed = condition(await testbed.wait_for_phase("refused", "Failed"), "Failed")
    assert "spec.code.requirements cannot be installed" in failed["message"]
    assert "ty-borrowed>=17" in failed["message"]

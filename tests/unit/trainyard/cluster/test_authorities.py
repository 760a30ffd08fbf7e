"""TLS contexts of the operator: one for each job, kept as long as its authorities."""

from __future__ import annotations

from tests.support.fakeapi import FakeApi
from tests.support.jobs import KEY
from tests.support.rotation import NOW, request_rotation
from trainyard.cluster.authorities import CONTEXT_LIFE, Authorities


async def test_the_contexts_of_all_jobs_are_kept() -> None:
    """Only those of 512 jobs were derived once, and none was kept after a failed connection."""
    authorities = Authorities(FakeApi().client, "trainyard-system")
    keys = [KEY._replace(name=f"job-{number}") for number in range(600)]
    contexts = [await authorities.operator_context(key, key.name, NOW) for key in keys]
    again = [await authorities.operator_context(key, key.name, NOW) for key in keys]
    assert all(first is second for first, second in zip(contexts, again, strict=True))


async def test_a_context_is_renewed_after_a_day_with_its_job_and_with_its_authority() -> None:
    api = FakeApi()
    authorities = Authorities(api.client, "trainyard-system")
    made = [await authorities.operator_context(KEY, "uid", NOW)]
    made.append(await authorities.operator_context(KEY, "uid", NOW + CONTEXT_LIFE))
    authorities.forget("uid")
    made.append(await authorities.operator_context(KEY, "uid", NOW + CONTEXT_LIFE))
    request_rotation(api)
    master = await authorities.refresh(NOW)
    authorities.keep(await authorities.store.rotate(master, NOW + CONTEXT_LIFE))
    made.append(await authorities.operator_context(KEY, "uid", NOW + CONTEXT_LIFE))
    assert len(set(map(id, made))) == len(made)
    assert await authorities.operator_context(KEY, "uid", NOW + CONTEXT_LIFE) is made[-1]

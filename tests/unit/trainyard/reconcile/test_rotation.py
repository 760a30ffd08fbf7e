"""The steps of a rotation of the master, and operators that are killed between any two of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from tests.support.fakeapi import FakeApi, Object
from tests.support.jobs import make_job
from tests.support.rotation import (
    HOUR,
    JOBS,
    MASTER,
    NOW,
    Killed,
    MortalApi,
    Operator,
    files,
    leaves,
    phases,
    request_rotation,
    versions,
)
from trainyard.api.names import Key
from trainyard.cluster.errors import ApiError
from trainyard.cluster.issuance import OVERLAP, parse_issuance
from trainyard.cluster.master import name_of
from trainyard.reconcile.rotation import RETIRE_AFTER, maintain_master


async def test_a_rotation_rewrites_the_secrets_of_both_kinds_and_ends_with_one_version() -> None:
    api = FakeApi()
    seen = [(phase, len(versions(api))) async for phase, _ in phases(api)]
    assert [count for _, count in seen] == [1, 2, 2, 1]
    [version] = versions(api)
    for job in JOBS:
        record = parse_issuance(leaves(api, job)["metadata"])
        assert record is not None
        assert record.trusted == (record.signer,)
        assert record.signer.startswith(version)
    assert "party-ann.crt" in files(api, JOBS[1])


async def test_all_jobs_are_reconciled_when_the_master_changes_and_not_otherwise() -> None:
    api, dirty = FakeApi(), set[Key]()
    operator = Operator(api)
    await operator.run()
    await maintain_master(operator.deps, dirty)
    assert dirty == set()
    request_rotation(api)
    await maintain_master(operator.deps, dirty)
    assert dirty == {job.key for job in JOBS}


async def test_a_resync_reads_the_master_and_nothing_else() -> None:
    api = FakeApi()
    operator = Operator(api)
    await operator.run()
    api.requests.clear()
    await operator.run()
    assert api.requests == [("GET", MASTER)]


async def test_a_running_jobs_children_are_due_when_the_new_version_may_sign() -> None:
    api = FakeApi()
    operator = Operator(api)
    await operator.run()
    request_rotation(api)
    await operator.run()
    due = {operator.deps.job_state(job).children.valid_until for job in JOBS}
    assert due == {NOW + OVERLAP}


async def rotated(api: FakeApi) -> Operator:
    """An operator in the middle of a rotation: all Secrets are of the new version since now."""
    operator = Operator(api, NOW - RETIRE_AFTER - OVERLAP)
    await operator.run()
    request_rotation(api)
    await operator.run()
    operator.now = NOW - OVERLAP
    await operator.run()
    return operator


async def test_a_version_stays_until_every_process_holds_a_leaf_of_the_newest() -> None:
    api = FakeApi()
    operator = await rotated(api)
    assert len(versions(api)) == 2
    operator.now = NOW - timedelta(seconds=1)
    await operator.run()
    assert len(versions(api)) == 2
    operator.now = NOW
    await operator.run()
    assert len(versions(api)) == 1


async def test_a_version_stays_while_one_jobs_secret_cannot_be_written() -> None:
    class RefusingApi(FakeApi):
        async def replace_fields(self, path: str, *rest: Any) -> Object:
            if "fed-trainyard-tls" in path:
                raise ApiError(403, "Forbidden", "not now")
            return await super().replace_fields(path, *rest)

    api = RefusingApi()
    operator = Operator(api, NOW - 5 * HOUR)
    await operator.run()
    request_rotation(api)
    for hour in range(5):
        operator.now = NOW + (hour - 4) * HOUR
        with pytest.raises(ApiError, match="not now"):
            await operator.run()
    assert len(versions(api)) == 2


async def test_a_successor_that_has_not_seen_the_jobs_secrets_removes_nothing() -> None:
    api = FakeApi()
    await rotated(api)
    successor = Operator(api, NOW + HOUR)
    await maintain_master(successor.deps, set())
    assert len(versions(api)) == 2
    await successor.run(resyncs=2)
    assert len(versions(api)) == 1


async def test_jobs_without_processes_delay_no_removal() -> None:
    api = FakeApi()
    operator = await rotated(api)
    waiting = make_job({}, {}, name="waiting", uid="uid-of-waiting")
    operator.deps.cache.put_job(waiting)
    operator.now = NOW
    await operator.run()
    assert len(versions(api)) == 1


async def test_a_lost_master_is_replaced_and_every_secret_with_it() -> None:
    api = FakeApi()
    operator = Operator(api)
    await operator.run()
    before = [files(api, job)["ca.crt"] for job in JOBS]
    del api.objects[MASTER]
    await operator.run()
    for job, old in zip(JOBS, before, strict=True):
        now = files(api, job)
        [root] = x509.load_pem_x509_certificates(now["ca.crt"])
        assert now["ca.crt"] != old
        x509.load_pem_x509_certificate(now["coordinator.crt"]).verify_directly_issued_by(root)


async def test_a_master_that_breaks_while_jobs_run_is_logged_and_the_known_one_is_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    api = FakeApi()
    operator = Operator(api)
    await operator.run()
    api.objects[MASTER]["data"]["broken"] = ""
    await operator.run()
    assert "has the key 'broken'" in caplog.text
    assert "remove that key" in caplog.text
    await operator.deps.authorities.operator_context(JOBS[0].key, JOBS[0].uid, NOW)


async def test_a_master_that_an_administrator_changes_meanwhile_is_left_to_the_next_resync() -> (
    None
):
    class RacingApi(FakeApi):
        is_racing = True

        async def get(self, path: str, **options: Any) -> Object:
            found = await super().get(path, **options)
            if path == MASTER and self.is_racing and "annotations" in found["metadata"]:
                self.is_racing = False
                request_rotation(self)
            return found

    api = RacingApi()
    operator = Operator(api)
    await operator.run()
    request_rotation(api)
    await operator.run()
    assert len(versions(api)) == 1
    await operator.run()
    assert len(versions(api)) == 2


def moments() -> Iterator[tuple[datetime, bool]]:
    """When the operators act, and whether a rotation is requested right before."""
    begun = NOW - 3 * HOUR
    yield begun, False
    yield begun + OVERLAP, True
    yield begun + 2 * OVERLAP, False
    yield NOW - HOUR, False
    yield NOW, False


async def live_through(api: MortalApi) -> tuple[int, list[list[dict[str, bytes]]]]:
    """A whole rotation; whoever is killed has a successor. Kills, and every state of Secrets."""
    operator, kills, seen = Operator(api), 0, []
    for now, is_requested in moments():
        if is_requested:
            request_rotation(api)
        for _ in range(2):
            operator.now = now
            try:
                await operator.run()
            except Killed:
                kills += 1
                operator = Operator(api, now)
                await operator.run()
            seen.append([files(api, job) for job in JOBS])
    return kills, seen


async def requests_of_a_rotation() -> int:
    api = MortalApi()
    await live_through(api)
    return api.changes


async def test_an_operator_killed_between_any_two_requests_is_continued() -> None:
    total = await requests_of_a_rotation()
    assert total == 1 + 2 + 1 + 2 * 3 + 1, "master, leaves, version, rewrites, removal"
    for kill_at, is_stored in itertools.product(range(total), (False, True)):
        api = MortalApi()
        api.kill_at, api.is_stored = kill_at, is_stored
        kills, seen = await live_through(api)
        where = f"killed at {kill_at}, stored: {is_stored}"
        assert kills == 1, where
        [version] = versions(api)
        assert version > name_of(NOW - 3 * HOUR), where
        for number, job in enumerate(JOBS):
            record = parse_issuance(leaves(api, job)["metadata"])
            assert record is not None, where
            assert record.signer.startswith(version), where
            _assert_in_step([copies[number] for copies in seen], where)


def _assert_in_step(copies: list[dict[str, bytes]], where: str) -> None:
    """Each Secret's leaves are trusted by the bundle of the one before and of the one after."""
    for before, after in itertools.pairwise(copies):
        for bundle, holder in ((before, after), (after, before), (after, after)):
            roots = x509.load_pem_x509_certificates(bundle["ca.crt"])
            leaf = x509.load_pem_x509_certificate(holder["coordinator.crt"])
            assert any(_signed(leaf, root) for root in roots), where


def _signed(leaf: x509.Certificate, root: x509.Certificate) -> bool:
    identifier = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    subject = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return identifier.key_identifier == subject.digest


async def test_a_lost_master_is_replaced_even_if_the_operator_dies_after_the_new_one() -> None:
    for kill_at, is_stored in itertools.product(range(3), (False, True)):
        api = MortalApi()
        await Operator(api).run()
        del api.objects[MASTER]
        api.kill_at, api.is_stored = api.changes + 1 + kill_at, is_stored
        with pytest.raises(Killed):
            await Operator(api).run()
        await Operator(api).run()
        for job in JOBS:
            [root] = x509.load_pem_x509_certificates(files(api, job)["ca.crt"])
            coordinator = files(api, job)["coordinator.crt"]
            x509.load_pem_x509_certificate(coordinator).verify_directly_issued_by(root)
        before = [leaves(api, job) for job in JOBS]
        await Operator(api).run()
        assert [leaves(api, job) for job in JOBS] == before

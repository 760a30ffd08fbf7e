"""When a leaf Secret is written again, and which version signs its leaves."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from tests.support.jobs import NOW
from trainyard.cluster.certificates import RENEW_AFTER
from trainyard.cluster.issuance import (
    OVERLAP,
    Issuance,
    annotate,
    check_at,
    digest,
    next_issuance,
    parse_issuance,
)
from trainyard.cluster.master import MasterVersion, name_of

OLD, NEW, LATER = (
    MasterVersion(name=name_of(NOW + timedelta(days=days)), secret=bytes(32)).identifier
    for days in (-30, -1, 30)
)
NAMES = digest("host", ())
FIRST = Issuance(signer=OLD, trusted=(OLD,), trusted_since=NOW, issued_at=NOW, names=NAMES)


def test_a_new_job_is_signed_for_by_the_newest_version_that_has_begun() -> None:
    assert next_issuance(None, (OLD,), NAMES, NOW) == FIRST
    assert next_issuance(None, (OLD, NEW, LATER), NAMES, NOW).signer == NEW
    assert next_issuance(None, (LATER,), NAMES, NOW).signer == LATER, "clocks may differ"


def test_a_secret_that_is_right_is_left_alone() -> None:
    soon = NOW + RENEW_AFTER - timedelta(seconds=1)
    assert next_issuance(FIRST, (OLD,), NAMES, soon) is FIRST
    assert check_at(FIRST) == NOW + RENEW_AFTER


def test_leaves_are_renewed_when_they_are_due() -> None:
    due = NOW + RENEW_AFTER
    renewed = next_issuance(FIRST, (OLD,), NAMES, due)
    assert renewed == msgspec.structs.replace(FIRST, issued_at=due)


@pytest.mark.parametrize(
    ("host", "parties"), [("other", ()), ("host", ("ann",)), ("host\nann", ())]
)
def test_other_names_are_other_leaves(host: str, parties: tuple[str, ...]) -> None:
    later = NOW + timedelta(hours=1)
    written = next_issuance(FIRST, (OLD,), digest(host, parties), later)
    assert (written.issued_at, written.trusted_since) == (later, NOW)


def test_the_order_of_parties_does_not_matter() -> None:
    assert digest("host", ("bob", "ann")) == digest("host", ("ann", "bob"))


def test_a_version_is_trusted_for_the_overlap_before_it_signs() -> None:
    added = next_issuance(FIRST, (OLD, NEW), NAMES, NOW + timedelta(days=2))
    since = NOW + timedelta(days=2)
    assert (added.signer, added.trusted, added.trusted_since) == (OLD, (OLD, NEW), since)
    assert check_at(added) == since + OVERLAP
    early = since + OVERLAP - timedelta(seconds=1)
    assert next_issuance(added, (OLD, NEW), NAMES, early) is added
    signed = next_issuance(added, (OLD, NEW), NAMES, since + OVERLAP)
    assert (signed.signer, signed.trusted_since) == (NEW, since)
    assert not signed.is_spread(NEW, since + OVERLAP)
    assert signed.is_spread(NEW, since + 2 * OVERLAP)
    assert not signed.is_spread(OLD, since + 2 * OVERLAP)
    retired = next_issuance(signed, (NEW,), NAMES, since + 3 * OVERLAP)
    assert (retired.signer, retired.trusted, retired.trusted_since) == (NEW, (NEW,), since)
    assert check_at(retired) == retired.renew_at


def test_the_overlap_begins_with_the_secret_and_not_with_the_version() -> None:
    """The operator may have been down for longer than the overlap."""
    late = NOW + timedelta(days=20)
    assert next_issuance(FIRST, (OLD, NEW), NAMES, late).signer == OLD


def test_a_version_of_the_future_does_not_sign_before_its_moment() -> None:
    added = next_issuance(FIRST, (OLD, LATER), NAMES, NOW)
    begins_at = NOW + timedelta(days=30)
    assert check_at(added) == begins_at
    early = begins_at - timedelta(seconds=1)
    assert next_issuance(added, (OLD, LATER), NAMES, early) is added
    assert next_issuance(added, (OLD, LATER), NAMES, begins_at).signer == LATER


def test_a_second_version_during_a_rotation_begins_its_overlap_anew() -> None:
    added = next_issuance(FIRST, (OLD, NEW), NAMES, NOW)
    second = next_issuance(added, (OLD, NEW, LATER), NAMES, NOW + OVERLAP / 2)
    assert second.trusted_since == NOW + OVERLAP / 2
    assert second.signer == OLD


def test_leaves_of_a_version_that_was_removed_are_replaced_at_once() -> None:
    replaced = next_issuance(FIRST, (NEW,), NAMES, NOW)
    assert (replaced.signer, replaced.trusted) == (NEW, (NEW,))


IMPLAUSIBLE = {
    "issued in the future": {"issued_at": NOW + timedelta(hours=1)},
    "trusted since the future": {"trusted_since": NOW + timedelta(hours=1)},
    "signed by what it does not trust": {"signer": NEW},
    "without any trust": {"trusted": ()},
}


@pytest.mark.parametrize("case", IMPLAUSIBLE)
def test_an_implausible_record_counts_as_none(case: str) -> None:
    """Or an edit by hand could postpone a renewal for ever."""
    found = msgspec.structs.replace(FIRST, **IMPLAUSIBLE[case])  # type: ignore[arg-type]
    later = NOW + timedelta(minutes=1)
    assert next_issuance(found, (OLD,), NAMES, later) == next_issuance(None, (OLD,), NAMES, later)


def test_a_record_is_read_as_it_was_written() -> None:
    assert parse_issuance({"annotations": annotate(FIRST)}) == FIRST


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "nonsense",
        annotate(FIRST)["trainyard.dev/certificates"].replace('00Z"', '00"'),
    ],
)
def test_an_unreadable_record_counts_as_none(text: str) -> None:
    assert parse_issuance({"annotations": {"trainyard.dev/certificates": text}}) is None
    assert parse_issuance({}) is None

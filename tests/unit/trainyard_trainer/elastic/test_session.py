"""What a worker does with a coordinator that it cannot understand."""

from pathlib import Path

import pytest

from trainyard_trainer.contract.env import WIRE_VERSION
from trainyard_trainer.contract.exits import Exit
from trainyard_trainer.elastic.session import MembershipSession
from trainyard_trainer.membership.messages import Welcome
from trainyard_trainer.runtime.exits import WireMismatch, describe
from trainyard_trainer.transport.connection import CoordinatorConnection
from trainyard_trainer.transport.tls import Credentials


def test_a_coordinator_of_another_release_ends_the_worker_with_both_versions(
    tmp_path: Path,
) -> None:
    credentials = Credentials(namespace="n", job="j", directory=str(tmp_path))
    connection = CoordinatorConnection("127.0.0.1:1", credentials)
    session = MembershipSession(
        connection, pod="pod", node="node", rendezvous="", act=lambda _: None
    )
    try:
        with pytest.raises(WireMismatch) as raised:
            session._dispatch(Welcome(term=1, config={}, wire=99))
    finally:
        connection._loop.close()
    code, message = describe(raised.value)
    assert code is Exit.WIRE_MISMATCH
    assert f"wire version 99, this worker {WIRE_VERSION}" in message.error

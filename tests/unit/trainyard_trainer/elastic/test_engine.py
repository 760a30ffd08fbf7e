"""What a worker does with a coordinator that it cannot understand."""

from pathlib import Path

import pytest

from trainyard_trainer.contract.env import WIRE_VERSION
from trainyard_trainer.contract.exits import Exit
from trainyard_trainer.elastic.engine import ElasticReplicaGroup
from trainyard_trainer.elastic.process_group import Rendezvous
from trainyard_trainer.runtime.exits import WireMismatch, describe
from trainyard_trainer.transport import messages
from trainyard_trainer.transport.link import CoordinatorConnection
from trainyard_trainer.transport.tls import Credentials


def test_a_coordinator_of_another_release_ends_the_worker_with_both_versions(
    tmp_path: Path,
) -> None:
    credentials = Credentials(namespace="n", job="j", directory=str(tmp_path))
    link = CoordinatorConnection("127.0.0.1:1", credentials)
    crew = ElasticReplicaGroup(link, Rendezvous("127.0.0.1"), "pod", "node")
    try:
        with pytest.raises(WireMismatch) as raised:
            crew._dispatch(messages.Welcome(term=1, config={}, wire=99))
    finally:
        link._loop.close()
    code, words = describe(raised.value)
    assert code is Exit.WIRE_MISMATCH
    assert f"wire version 99, this worker {WIRE_VERSION}" in words.error

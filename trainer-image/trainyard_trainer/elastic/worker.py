"""The worker's process, from its environment to its termination message."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Final, NoReturn

from trainyard_trainer.contract.env import (
    DEVICE_REQUIRED,
    ENV_COORDINATOR,
    ENV_DEVICE,
    ENV_JOB,
    ENV_NAMESPACE,
    ENV_NODE,
    ENV_POD,
    ENV_POD_IP,
)
from trainyard_trainer.contract.exits import Exit, Result, TerminationMessage
from trainyard_trainer.elastic.engine import ElasticReplicaGroup
from trainyard_trainer.elastic.process_group import Rendezvous
from trainyard_trainer.elastic.reporter import Reporter
from trainyard_trainer.elastic.session import Dismissed
from trainyard_trainer.membership.messages import LeaveRequest
from trainyard_trainer.runtime import user_code
from trainyard_trainer.runtime.exits import (
    Fenced,
    JobFailed,
    MemberUnfit,
    NoDevice,
    TaskFailed,
    TrainerError,
    WireMismatch,
    check_wire,
    describe,
    divergence,
    write_termination_message,
)
from trainyard_trainer.task import load
from trainyard_trainer.training.device import choose_device
from trainyard_trainer.training.loop import train
from trainyard_trainer.training.replica import build
from trainyard_trainer.training.result import final_model
from trainyard_trainer.training.result import result as training_result
from trainyard_trainer.transport.connection import CoordinatorConnection
from trainyard_trainer.transport.tls import Credentials

log = logging.getLogger(__name__)

RECONNECT_SECONDS: Final = 45.0
"""How long a terminating worker waits for a coordinator; a new one takes ten seconds."""
LAST_HOLDER_SECONDS: Final = 100.0
"""The same for the only one with the state, which is lost with it; its pod has 120 seconds."""
LOG_SECONDS: Final = 5.0
"""How long the last lines of a worker that hangs may take to be logged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEnv:
    """A worker's environment; the coordinator provides everything else."""

    namespace: str
    job: str
    pod: str
    address: str
    """The IP address by which other workers reach this one."""
    node: str
    coordinator: str
    tls: str
    """The directory of the certificates."""
    needs_device: bool = False
    """Whether it must not train on the CPU."""

    @classmethod
    def read(cls, environ: Mapping[str, str], tls: str) -> WorkerEnv:
        """From environment variables; raises TrainerError that names a missing one."""
        try:
            return cls(
                namespace=environ[ENV_NAMESPACE],
                job=environ[ENV_JOB],
                pod=environ[ENV_POD],
                address=environ[ENV_POD_IP],
                node=environ.get(ENV_NODE, ""),
                coordinator=environ[ENV_COORDINATOR],
                tls=tls,
                needs_device=environ.get(ENV_DEVICE) == DEVICE_REQUIRED,
            )
        except KeyError as error:
            raise TrainerError(f"the environment variable {error.args[0]} is not set") from None


def run(environ: Mapping[str, str], *, started: float, tls: str, termination_log: str) -> NoReturn:
    """Train until dismissed, then end the process.

    `started` is on `time.monotonic`'s clock; `termination_log` is where the message is written.
    """
    try:
        check_wire(environ)
        code, message = _run(WorkerEnv.read(environ, tls), started, termination_log)
    except Exception as error:
        code, message = describe(error)
        log.error("%s", message.error, exc_info=error.__cause__ or error)
    write_termination_message(termination_log, message)
    logging.shutdown()
    sys.stdout.flush()
    # Threads may be waiting for members that are long gone; an orderly exit would join them.
    os._exit(code)


def _run(env: WorkerEnv, started: float, termination_log: str) -> tuple[Exit, TerminationMessage]:
    credentials = Credentials(namespace=env.namespace, job=env.job, directory=env.tls)
    connection = CoordinatorConnection(env.coordinator, credentials)
    peers = ElasticReplicaGroup(connection, Rendezvous(env.address), env.pod, env.node)
    _leave_on_sigterm(connection, peers, termination_log)
    connection.start(
        peers.session.hello, lambda reason: _exit_from_outside(reason, termination_log)
    )
    try:
        result = _train(peers, started, needs_device=env.needs_device)
    except Dismissed as end:
        result = end.result
    finally:
        connection.close()
    replica = peers.replica_or_none
    if replica is None or replica.iteration == 0:
        return Exit.OK, TerminationMessage(result=result)
    ended = training_result(replica)
    return Exit.OK, TerminationMessage(
        result=result,
        error=divergence(ended),
        step=replica.step,
        samples=replica.samples,
        metrics={name: v for name, v in ended["metrics"].items() if v is not None},
    )


def _leave_on_sigterm(
    connection: CoordinatorConnection, peers: ElasticReplicaGroup, termination_log: str
) -> None:
    # A signal handler may interrupt any line of the main thread, so that it takes no lock.
    requests: queue.SimpleQueue[None] = queue.SimpleQueue()

    def leave(_signal: int, _frame: FrameType | None) -> None:
        connection.inject(LeaveRequest())
        requests.put(None)

    def watch() -> None:
        requests.get()
        _exit_without_coordinator(connection, peers, termination_log)

    threading.Thread(target=watch, name="leave", daemon=True).start()
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)


def _exit_without_coordinator(
    connection: CoordinatorConnection, peers: ElasticReplicaGroup, termination_log: str
) -> None:
    """Exit, before the pod is killed, when no coordinator can dismiss this worker."""
    disconnected_seconds = 0.0
    while disconnected_seconds < patience_seconds(peers.is_last_holder):
        time.sleep(1.0)
        disconnected_seconds = 0.0 if connection.is_connected else disconnected_seconds + 1.0
    log.warning("no coordinator for %.0f s: leaving without a goodbye", disconnected_seconds)
    write_termination_message(termination_log, TerminationMessage(result=Result.LEFT))
    os._exit(Exit.OK)


def _exit_from_outside(reason: str, termination_log: str) -> None:
    """End the process from another thread: its training thread hangs, and its stack says where."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    stack = "" if frame is None else "".join(traceback.format_stack(frame))
    message = TerminationMessage(result=Result.FAILED, error=reason, traceback=stack)
    write_termination_message(termination_log, message)
    # The training thread may hang in the very logging that this would wait for.
    logs = threading.Thread(target=log.error, args=("%s\n%s", reason, stack), daemon=True)
    logs.start()
    logs.join(LOG_SECONDS)
    os._exit(Exit.MEMBER_UNFIT)


def patience_seconds(is_last_holder: bool) -> float:
    """How long a terminating worker waits for a coordinator to reconnect to."""
    return LAST_HOLDER_SECONDS if is_last_holder else RECONNECT_SECONDS


def _train(peers: ElasticReplicaGroup, started: float, *, needs_device: bool) -> Result:
    config = peers.session.await_config()
    with _own_faults(peers):
        user_code.make_importable(os.environ)
        device = choose_device(is_required=needs_device)
        replica = build(load(config.task, config.args), config, device)
        peers.register(replica)
        with _handed_over(peers):
            train(replica, peers, Reporter(peers, started))
    return peers.finish(lambda: final_model(replica))


@contextlib.contextmanager
def _own_faults(peers: ElasticReplicaGroup) -> Iterator[None]:
    """Raise MemberUnfit for what fails on a worker without state while others train."""
    try:
        yield
    except (Dismissed, Fenced, WireMismatch, MemberUnfit, JobFailed, NoDevice):
        raise
    except Exception as error:
        reason = describe(error)[1].error
        if peers.has_state or not peers.session.is_own_fault(reason):
            raise
        raise MemberUnfit(f"this worker alone cannot take part: {reason}") from error


@contextlib.contextmanager
def _handed_over(peers: ElasticReplicaGroup) -> Iterator[None]:
    """Hand the state over before this worker ends with an error of the user's code."""
    try:
        yield
    except TaskFailed as error:
        try:
            peers.hand_over(error)
        except JobFailed as failure:
            raise failure from error.__cause__
        raise

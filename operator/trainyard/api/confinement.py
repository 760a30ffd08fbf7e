"""What a template may not mount: the data of one party, the state, and the pods' keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trainyard.api.federation import FederatedJobSpec
from trainyard.api.names import LEAF_SUFFIX
from trainyard.api.spec import JobSpec, PodTemplate


def forbidden_mounts(spec: JobSpec, template: PodTemplate, field: str) -> str:
    """Return a message that names the first forbidden field and what to do, else an empty one."""
    return next(_violations(spec, template, field), "")


def _violations(spec: JobSpec, template: PodTemplate, field: str) -> Iterator[str]:
    for kind, entries in (("volumes", template.volumes), ("env", template.env)):
        for entry in entries:
            for secret in _secrets(entry):
                if secret.endswith(LEAF_SUFFIX):
                    yield (
                        f"spec.{field}.{kind}[{entry.get('name', '')}] names the Secret {secret}, "
                        "which has the keys of a job's pods: leave it out."
                    )
    if isinstance(spec, FederatedJobSpec):
        yield from _shared_claims(spec)


def _shared_claims(spec: FederatedJobSpec) -> Iterator[str]:
    owners: dict[str, str] = {}
    if spec.state.claim_name:
        owners[spec.state.claim_name] = "spec.state.claimName"
    for party in spec.parties:
        if party.data is None or not party.data.claim_name:
            continue
        here, claim = f"spec.parties[{party.name}].data.claimName", party.data.claim_name
        if claim in owners:
            yield (
                f"{here} names the claim {claim} of {owners[claim]}: give each party a claim of "
                "its own, other than the state's."
            )
        owners[claim] = here
    for volume in spec.template.volumes:
        claim = str((volume.get("persistentVolumeClaim") or {}).get("claimName", ""))
        if claim in owners:
            yield (
                f"spec.template.volumes[{volume.get('name', '')}] would mount the claim {claim} of "
                f"{owners[claim]} in the pods of all parties: leave it out."
            )


def _secrets(entry: dict[str, Any]) -> Iterator[str]:
    """The names of all Secrets in a volume or a variable."""
    sources = [entry, *((entry.get("projected") or {}).get("sources") or ())]
    for source in sources:
        secret = source.get("secret") or {}
        yield str(secret.get("secretName") or secret.get("name") or "")
    yield str(((entry.get("valueFrom") or {}).get("secretKeyRef") or {}).get("name", ""))

"""Which API server, account and namespace a command takes, as kubectl would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from trainyard.cluster.login import Login, LoginError, kubectl_login

POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


def kubeconfig(path: Path, **namespaces: str | None) -> Path:
    """A kubeconfig with a context and a server for each name; the first is the current one."""
    contexts = [
        {"name": name, "context": {"cluster": name} | ({"namespace": space} if space else {})}
        for name, space in namespaces.items()
    ]
    clusters = [{"name": name, "cluster": {"server": f"http://{name}"}} for name in namespaces]
    content = {"current-context": next(iter(namespaces)), "contexts": contexts}
    path.write_text(yaml.safe_dump({**content, "clusters": clusters, "users": []}))
    return path


def service_account(folder: Path, namespace: str = "notebooks") -> Path:
    """What the kubelet mounts into pods."""
    for name, content in {"token": "t0ken", "ca.crt": "none", "namespace": namespace}.items():
        (folder / name).write_text(content)
    return folder


def target(login: Login) -> tuple[str, str]:
    return login.configuration.host, login.namespace


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without files."""
    folder = tmp_path / "home"
    (folder / ".kube").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    return folder


async def test_the_context_has_server_and_namespace(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path / "config", work="team", play=None)
    assert target(await kubectl_login(file, None, {})) == ("http://work", "team")
    assert target(await kubectl_login(file, "play", {})) == ("http://play", "default")


async def test_files_come_from_the_option_then_the_variable_then_the_home(
    tmp_path: Path, home: Path
) -> None:
    kubeconfig(home / ".kube/config", at_home="one")
    named = {"KUBECONFIG": str(kubeconfig(tmp_path / "named", named="two"))}
    given = kubeconfig(tmp_path / "given", given="three")
    assert target(await kubectl_login(None, None, POD)) == ("http://at_home", "one")
    assert target(await kubectl_login(None, None, POD | named)) == ("http://named", "two")
    assert target(await kubectl_login(given, None, POD | named)) == ("http://given", "three")


async def test_several_files_of_the_variable_are_one(tmp_path: Path) -> None:
    first, second = (kubeconfig(tmp_path / name, **{name: name}) for name in ("first", "second"))
    environ = {"KUBECONFIG": f"{tmp_path / 'absent'}:{first}:{second}"}
    assert target(await kubectl_login(None, "second", environ)) == ("http://second", "second")


async def test_a_pod_without_a_kubeconfig_uses_its_service_account(tmp_path: Path) -> None:
    login = await kubectl_login(None, None, POD, service_account(tmp_path))
    assert target(login) == ("https://10.0.0.1:443", "notebooks")
    assert login.configuration.api_key == {"BearerToken": "bearer t0ken"}


async def refusal(*args: Any) -> str:
    with pytest.raises(LoginError) as refused:
        await kubectl_login(*args)
    return str(refused.value)


async def test_without_any_file_a_sentence_says_so() -> None:
    remedy = "does not exist. Set KUBECONFIG or give --kubeconfig"
    missing = f"there is no kubeconfig: ~/.kube/config {remedy}"
    assert await refusal(None, None, {}) == missing
    assert await refusal(None, "work", POD) == missing, "a context is one of a kubeconfig"
    nowhere = f"there is no kubeconfig: /nowhere {remedy}"
    assert await refusal(None, None, {"KUBECONFIG": "/nowhere"}) == nowhere
    assert await refusal(Path("/nowhere"), None, POD) == nowhere


async def test_a_pod_without_an_account_is_told_so(tmp_path: Path) -> None:
    message = await refusal(None, None, POD, tmp_path)
    assert message.startswith("this pod's service account cannot be used: ")


@pytest.mark.parametrize(
    ("content", "context"),
    {
        "an unknown context": ("contexts: []\nclusters: []\n", "work"),
        "no context": ("{}", None),
        "no YAML": ("{", None),
        "no mapping": ("42", None),
        "nothing": ("", None),
        "binary": ("\0\0", None),
        "a context without a cluster": ("current-context: a\ncontexts: [{name: a}]", None),
    }.values(),
)
async def test_a_file_that_is_no_kubeconfig_is_named(
    tmp_path: Path, content: str, context: str | None
) -> None:
    file = tmp_path / "config"
    file.write_text(content)
    assert (await refusal(file, context, {})).startswith(f"the kubeconfig {file} cannot be used: ")

"""The images run as any user, also as one that a platform assigns and `/etc/passwd` lacks."""

from __future__ import annotations

import getpass
import pwd
import re
from pathlib import Path

import pytest

CONTAINERFILES = sorted(Path(__file__).parents[2].glob("*/Containerfile"))
MOUNTED = "/tmp"


def environment_of(containerfile: Path) -> dict[str, str]:
    """The variables of the last stage."""
    last = containerfile.read_text().rpartition("\nFROM ")[2]
    (instruction,) = re.findall(r"^ENV ((?:.*\\\n)*.*)$", last, re.MULTILINE)
    return dict(part.split("=", 1) for part in instruction.replace("\\\n", " ").split())


def test_there_are_two_images() -> None:
    assert [path.parent.name for path in CONTAINERFILES] == ["operator", "trainer-image"]


@pytest.mark.parametrize("path", CONTAINERFILES, ids=lambda path: path.parent.name)
def test_a_user_without_an_entry_has_a_name_and_a_home(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's compiler and kopf ask for the name, and many libraries for the home."""

    def unknown(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    environment = environment_of(path)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("USER", "HOME"):
        monkeypatch.setenv(name, environment[name])
    assert (getpass.getuser(), str(Path.home())) == ("trainyard", MOUNTED)


@pytest.mark.parametrize("path", CONTAINERFILES, ids=lambda path: path.parent.name)
def test_the_user_is_a_number(path: Path) -> None:
    """Or a kubelet could not tell that it is not root, where no pod names another."""
    users = re.findall(r"^USER (.*)$", path.read_text(), re.MULTILINE)
    assert users == ["65532:65532"]

"""Repositories behind ssh, in both forms of their URLs, through git itself and an ssh that runs the server's part here."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from mlops_provider import arrivals
from mlops_provider.deployment import DvcAccess
from mlops_provider.exceptions import AccessDenied
from mlops_provider.steps.data.commits import ResolvedCode
from mlops_provider.steps.data.remote import Remote
from mlops_provider.steps.data.repository import Repository
from tests.support.remote_shell import HOST, RemoteShell
from tests.support.tiny import World, call, write_model


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteShell:
    """The server: a home with an empty repository in it."""
    home = tmp_path / "home"
    subprocess.run(["git", "init", "-q", "--bare", "--initial-branch=main", str(home / "data.git")], check=True)
    made = RemoteShell(home, tmp_path / "ssh")
    monkeypatch.setenv("PATH", made.path)
    return made


FORMS = pytest.mark.parametrize(
    "form", ["{host}:data.git", "ssh://{host}{home}/data.git", "ssh://{host}:2222{home}/data.git"]
)


@FORMS
def test_a_version_goes_to_a_repository_behind_ssh_and_is_noticed(
    shell: RemoteShell, tmp_path: Path, form: str
) -> None:
    url = form.format(host=HOST, home=tmp_path / "home")
    access = DvcAccess(private_key="KEY", known_hosts="data.example ssh-ed25519 AAAA")
    repository = Repository(url, Remote(str(tmp_path / "dvc"), {}), access)
    repository.probe()
    (tmp_path / "source").write_text("one")
    stored = repository.add(tmp_path / "source", "tables/a.csv", "test")
    assert repository.find("tables/a.csv", tag=stored.tag)[1:3] == (stored.rev, stored.pointer)
    assert arrivals.Repository(uri=url, tags="tables/*").versions(access) == {stored.tag: stored.rev}
    assert all("BatchMode=yes" in call and "StrictHostKeyChecking=yes" in call for call in shell.calls())
    assert any("git-receive-pack" in call for call in shell.calls())
    assert ("-p 2222" in shell.calls()[0]) == (":2222" in url)


def test_the_key_is_a_file_that_is_gone_afterwards(shell: RemoteShell, tmp_path: Path) -> None:
    access = DvcAccess(private_key="KEY")
    Repository(f"{HOST}:data.git", Remote(str(tmp_path / "dvc"), {}), access).probe()
    words = shlex.split(shell.calls()[0])
    assert not Path(words[words.index("-i") + 1]).exists()
    assert "KEY" not in shell.calls()[0]


def test_a_stranger_is_refused_for_good(shell: RemoteShell, tmp_path: Path) -> None:
    url = "stranger@data.example:data.git"
    with pytest.raises(AccessDenied, match=r"(?s)Permission denied.*exists\. Check the credentials"):
        Repository(url, Remote(str(tmp_path / "dvc"), {}), DvcAccess()).probe()
    with pytest.raises(AccessDenied, match="Permission denied"):
        arrivals.Repository(uri=url).versions()
    assert len(shell.calls()) == 2


def test_code_comes_from_a_repository_behind_ssh(shell: RemoteShell, empty: World, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["git", "init", "-q", "--initial-branch=main", str(copy)], check=True)
    write_model(copy / "include")
    for command in ("add --all", "commit -q -m model", f"push -q {tmp_path}/home/data.git main"):
        git = ["git", "-C", str(copy), "-c", "user.name=t", "-c", "user.email=t@localhost", *command.split()]
        subprocess.run(git, check=True)
    job = empty.configure(data={"code": {"repository": f"{HOST}:data.git"}})
    found = call(job, "resolve_code", ref="main")
    assert isinstance(found, ResolvedCode)
    assert (found.commit.ref, found.commit.reviewed) == ("main", True)
    assert len(shell.calls()) >= 2

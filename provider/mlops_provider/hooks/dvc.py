"""Connection to a data repository: git for the pointers, a DVC remote for the content."""

from __future__ import annotations

import re
import textwrap
from typing import Any

from airflow.sdk import BaseHook

from mlops_provider.deployment import DvcAccess
from mlops_provider.exceptions import AccessDenied, ConfigError, MlopsError
from mlops_provider.hooks.aws import s3_options

_FIELDS = ("repository", "remote", "aws_conn_id", "private_key", "known_hosts")


class DvcHook(BaseHook):
    """Resolves a connection of type ``dvc`` to places and credentials.

    Login and password are for git over https. The extra holds ``repository`` and ``remote`` (those of model.yaml if empty),
    ``aws_conn_id`` for a remote on S3, ``private_key`` and ``known_hosts`` for git over ssh. Any other key is refused.

    :param dvc_conn_id: id of the connection.
    :param aws_conn_id: connection for a remote on S3, if this one names none.
    """

    conn_name_attr = "dvc_conn_id"
    default_conn_name = "dvc_default"
    conn_type = "dvc"
    hook_name = "DVC data repository"

    def __init__(self, dvc_conn_id: str = default_conn_name, aws_conn_id: str = "aws_default") -> None:
        super().__init__()
        self.dvc_conn_id = dvc_conn_id
        self.aws_conn_id = aws_conn_id

    def get_conn(self) -> DvcAccess:
        """Places and credentials, as steps get them.

        :raises ConfigError: if the connection has a field that is not known, or one that does not fit.
        """
        access, aws = self._read()
        on_s3 = bool(aws) or access.remote.startswith("s3://")
        return access.model_copy(update={"storage_options": s3_options(aws or self.aws_conn_id)}) if on_s3 else access

    def git_access(self) -> DvcAccess:
        """The same without the credentials of a remote on S3, for those who only look into the repository."""
        return self._read()[0]

    def _read(self) -> tuple[DvcAccess, str]:
        """What the connection says, and the connection that it names for S3."""
        found: Any = self.get_connection(self.dvc_conn_id)
        extra = {key: str(value or "") for key, value in found.extra_dejson.items()}
        if unknown := sorted(set(extra) - set(_FIELDS)):
            raise ConfigError(
                f"connection {self.dvc_conn_id!r} has {', '.join(unknown)} in its extra; known are {', '.join(_FIELDS)}"
            )
        if found.login and not found.password:
            raise ConfigError(f"connection {self.dvc_conn_id!r} has a login and no password: give the token for git")
        extra["private_key"] = _with_lines(extra.get("private_key", ""))
        aws = extra.pop("aws_conn_id", "")
        return DvcAccess(**extra, username=found.login or "", password=found.password or ""), aws

    def test_connection(self) -> tuple[bool, str]:
        """Asks git for its refs and whether it would take a push, and lists the remote."""
        from mlops_provider.steps.data.remote import Remote
        from mlops_provider.steps.data.repository import Repository

        try:
            access = self.get_conn()
            if not (access.repository and access.remote):
                return False, "Name the repository and the remote: those of model.yaml are not known here."
            repository = Repository(access.repository, Remote(access.remote, access.storage_options), access)
            repository.probe()
            try:
                repository.probe(write=True)
            except AccessDenied as error:
                return True, f"{access.repository} and {access.remote} answer, for reading only: {error}"
        except (MlopsError, OSError) as error:
            return False, str(error)
        except Exception as error:
            return False, f"{type(error).__name__}: {error}"
        return True, f"{access.repository} and {access.remote} answer."


def _with_lines(key: str) -> str:
    """A key with its line ends, which a form of one line takes away."""
    found = re.fullmatch(
        r"\s*(-----BEGIN [A-Z ]+-----)(.*)(-----END [A-Z ]+-----)\s*", key.replace("\\n", "\n"), re.DOTALL
    )
    if found is None:
        return key
    body = "".join(found[2].split())
    return "\n".join([found[1], *textwrap.wrap(body, 70), found[3]])

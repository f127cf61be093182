"""Secrets from files: ``COINSWARM_REDIS_URL_FILE`` names a file that holds what ``COINSWARM_REDIS_URL`` would.

As Docker and Kubernetes hand them out. A process's environment can be read by its children and by tools that list it; a
file has an owner and rights.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from memory.errors import CoinswarmError

PREFIX = "COINSWARM_"
SUFFIX = "_FILE"
LARGEST_BYTES = 64 << 10
"""A URL is far smaller: whatever is larger is another file, named by mistake."""


class SecretFileError(CoinswarmError, ValueError):
    """A file of a secret that cannot be used, or that is named beside the secret itself."""


class SecretFiles(PydanticBaseSettingsSource):
    """The values of secret settings whose files the environment names."""

    def __init__(self, settings: type[BaseSettings]) -> None:
        super().__init__(settings)

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Part of pydantic-settings: the value of one field, None where no file is named for it."""
        variable = f"{PREFIX}{field_name.upper()}{SUFFIX}"
        named = os.environ.get(variable)
        if not named or SecretStr not in (field.annotation, *get_args(field.annotation)):
            return None, field_name, False
        if os.environ.get(variable.removesuffix(SUFFIX)):
            raise SecretFileError(
                f"{variable} and {variable.removesuffix(SUFFIX)} are both set.", remedy="Unset one of them."
            )
        return read_secret_file(Path(named), variable), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Part of pydantic-settings: all values.

        Raises
        ------
        SecretFileError
            A file cannot be read or is empty, or its setting is given as well.
        """
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


def read_secret_file(path: Path, variable: str) -> str:
    """The secret in a file, without the white space around it; `variable` names the file in errors.

    Raises
    ------
    SecretFileError
        It cannot be read, is empty, or is no text of one line.
    """
    try:
        with path.expanduser().open("rb") as stream:
            content = stream.read(LARGEST_BYTES + 1)
    except (OSError, RuntimeError) as error:  # RuntimeError: of ~user, who is not there.
        reason = error.strerror if isinstance(error, OSError) else "there is no such user"
        raise SecretFileError(
            f"{variable}: {path} cannot be read ({reason}).",
            remedy="Name a file that this user may read, or unset the variable.",
        ) from error
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text or len(content) > LARGEST_BYTES or len(text.splitlines()) != 1:
        raise SecretFileError(
            f"{variable}: {path} holds no secret.", remedy="Write it there as one line of text, and nothing else."
        )
    return text

"""Commands that a message tells somebody to run: they work on the namespace that the message is about."""

from __future__ import annotations

import os

from memory.settings import Settings

VARIABLE = "COINSWARM_NAMESPACE"


def command(words: str, namespace: str) -> str:
    """``coinswarm`` with some words, as it is pasted into a shell.

    The namespace is named unless it is the shipped one, which a command takes by itself where the environment names no
    other.

    Parameters
    ----------
    words
        Such as ``run reindex_memory``; quoted for a shell where they need it.
    namespace
        Which memory the command is to work on; commands that take no ``--namespace`` are no business of this.
    """
    shipped = Settings.model_fields["namespace"].default
    taken = os.environ.get(VARIABLE) or shipped
    return f"coinswarm {words}" if namespace == taken == shipped else f"coinswarm {words} --namespace {namespace}"

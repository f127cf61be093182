"""`coinswarm deadletters`: the commands for records that could not be stored."""

from __future__ import annotations

from typing import Annotated

import typer

from deployments.console import Console
from deployments.options import Json, Namespace

app = typer.Typer(help="Records that could not be stored, and why: look at them, try them again, or drop them.")

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids, as 'list' shows them.")]
Everything = Annotated[bool, typer.Option("--all", help="All letters, or all that --agent and --field choose.")]
Agent = Annotated[str | None, typer.Option(help="Only letters of this agent.")]
Field = Annotated[str | None, typer.Option(help="Only letters with this field at fault.")]


@app.command(name="list")
def list_letters(
    namespace: Namespace = None,
    agent: Agent = None,
    field: Field = None,
    limit: Annotated[int, typer.Option(min=1, help="Letters to show.")] = 20,
    as_json: Json = False,
) -> None:
    """The newest letters: what is at fault, whose they are, and when they came."""
    from deployments import letters

    console = Console(as_json=as_json)
    chosen = letters.Chosen(agent_id=agent, field=field)
    console.result(letters.list_letters(namespace, chosen, limit), letters.show_list)


@app.command()
def show(
    entry_id: Annotated[str, typer.Argument(metavar="ID", help="Id, as 'list' shows it.")],
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """One letter with the record that it holds, field by field."""
    from deployments import letters

    console = Console(as_json=as_json)
    console.result(letters.show_letter(namespace, entry_id), letters.show_one)


@app.command()
def retry(
    entry_ids: Ids = None,
    everything: Everything = False,
    agent: Agent = None,
    field: Field = None,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """Put letters back to where they came from, once the cause is gone: experiences into their agents' inboxes, and
    messages whose handling failed to their readers; messages that were never sent go out. Nothing is stored or told
    twice. What names no agent, and a message that is broken or in another's name, can only be dropped.
    """
    from deployments import letters

    console = Console(as_json=as_json)
    chosen = letters.Chosen(tuple(entry_ids or ()), everything, agent, field)
    console.result(letters.retry(namespace, chosen), letters.show_retry)


@app.command()
def drop(
    entry_ids: Ids = None,
    everything: Everything = False,
    agent: Agent = None,
    field: Field = None,
    yes: Annotated[bool, typer.Option("--yes", help="They are removed for good: say so.")] = False,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """Remove letters for good."""
    from deployments import letters

    console = Console(as_json=as_json)
    chosen = letters.Chosen(tuple(entry_ids or ()), everything, agent, field)
    console.result(letters.drop(namespace, chosen, confirmed=yes), letters.show_drop)

"""Record experiences: from a replayed market, or from the agents' inboxes."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.forms.record_experiences import Parameters
from tasks.freshness_events import tell_freshness
from tasks.recording import drain_inbox, replay_market
from tasks.regime_events import forward_regime_changes
from tasks.reporting import leave_artifact
from tasks.run_summaries import recording_summary
from tasks.runs import ledger_run


@flow(name="record_experiences", flow_run_name="record-{parameters.namespace}-{parameters.source}")
def record_experiences(parameters: Parameters | None = None) -> dict[str, Any]:
    """Store what agents lived through; recording the same again stores nothing.

    A replay needs a window (the last full UTC day where it is empty); the inbox is drained whatever the window.
    """
    parameters = parameters or Parameters()
    parameters.check()
    window = parameters.window() if parameters.source == "market" else None
    lock = "inbox" if parameters.source == "inbox" else None
    with ledger_run("record_experiences", parameters, parameters.namespace, window=window, lock=lock) as run:
        with run.steps.step(f"record from {parameters.source}") as shown:
            if window is not None:
                counts = replay_market(
                    parameters.namespace,
                    window,
                    parameters.market_name,
                    parameters.products,
                    parameters.encoder,
                    parameters.min_quality,
                )
            else:
                counts = drain_inbox(parameters.namespace, parameters.encoder, parameters.min_quality)
            shown |= {name: counts[name] for name in ("stored", "duplicates", "dead_letters")}
        if window is None:
            with run.steps.step("tell of regime changes") as shown:
                shown |= {"events": forward_regime_changes(parameters.namespace)}
            with run.steps.step("tell how old knowledge is") as shown:
                shown |= tell_freshness(parameters.namespace)
        run.result |= {"source": parameters.source, "window": window.name if window else None, **counts}
        leave_artifact(run, "recording", recording_summary(run.result))
        return run.finished()

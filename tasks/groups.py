"""What is published together, and from which folds: named here without Prefect, for those who only look."""

from __future__ import annotations

from collections.abc import Mapping

from memory.records import SemanticType

KNOWLEDGE = "knowledge"
DYNAMICS = "dynamics"
PUBLISHED: Mapping[str, tuple[str, frozenset[SemanticType]]] = {
    KNOWLEDGE: (
        "published-knowledge",
        frozenset({SemanticType.PATTERN, SemanticType.STRATEGY, SemanticType.CORRELATION}),
    ),
    DYNAMICS: ("published-dynamics", frozenset({SemanticType.REGIME})),
}
"""What is published together, with the fold kind under which the ledger notes which windows Redis holds."""
FOLDS: Mapping[str, tuple[str, ...]] = {
    KNOWLEDGE: ("patterns", "strategies", "correlations"),
    DYNAMICS: ("transitions", "regimes"),
}
"""The folds that each group is projected from; the first of them leads."""

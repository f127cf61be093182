"""The safeguards that fault tests take out are there to be taken out. Quick: part of `make test`."""

from __future__ import annotations

import pytest
from fault_removals import REMOVALS, Cut


@pytest.mark.parametrize("name", REMOVALS)
def test_every_safeguard_that_a_test_removes_is_in_the_code_that_the_test_runs(name: str) -> None:
    for cut in REMOVALS[name]:
        function, code = cut.compiled()
        assert code != function.__code__


def test_a_safeguard_that_was_rewritten_is_an_error_and_not_a_removal_of_nothing() -> None:
    with pytest.raises(LookupError, match="holds 0 times"):
        Cut("memory.ledger.fence", "guard", (("if the_fence_was_rewritten:", "if False:"),)).compiled()

"""What a call sets for a while is as it was afterwards."""

from __future__ import annotations

from contextvars import ContextVar

import pytest

from comfy_client.interrupts import assigned


def fail(variable: ContextVar[int], error: type[BaseException]) -> None:
    with assigned(variable, 2):
        assert variable.get() == 2
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_variable_is_assigned_for_a_while(error: type[BaseException]) -> None:
    """However the block ends, and within blocks of the same variable."""
    variable: ContextVar[int] = ContextVar("variable", default=0)
    with assigned(variable, 1):
        with pytest.raises(error):
            fail(variable, error)
        assert variable.get() == 1
    assert variable.get() == 0

"""--memory and --cpus: what is taken is what a person would write."""

from __future__ import annotations

import pytest

import tasks
from builders.errors import UsageError


def test_sizes_and_cores() -> None:
    assert [tasks._bytes(word) for word in ("", "900m", "4G")] == [None, 900 << 20, 4 << 30]
    assert [tasks._cores(word) for word in ("", "2", "0.5")] == [None, 2, 0.5]


@pytest.mark.parametrize("word", ["\u0664g", "4", "4gb", "-4g", "63m", "4g\n", "1e3g"])
def test_what_is_no_size(word: str) -> None:
    with pytest.raises(UsageError):
        tasks._bytes(word)


@pytest.mark.parametrize("word", ["\u0664", "nan", "inf", "1_0", "0", "1e2", "-1", "2\n", "0.05"])
def test_what_is_no_count_of_cores(word: str) -> None:
    with pytest.raises(UsageError):
        tasks._cores(word)

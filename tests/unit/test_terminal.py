"""What is printed where nobody watches, and how a failure reads."""

from __future__ import annotations

import re

import pytest

from builders.tools import terminal
from builders.tools.terminal import Terminal


def test_phases_are_time_stamped_lines_in_ci(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "HEARTBEAT", 0.0)
    with Terminal(ci=True).phase("compile", "packages") as phase:
        phase.step("k8s.io/kubernetes/cmd/kubelet")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d compile: ", line) for line in lines)
    assert lines[1].endswith("1 packages") and "done" in lines[2]


def test_a_phase_that_fails_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="x"), Terminal(ci=True).phase("prove"):
        raise ValueError("x")
    assert "prove: failed" in capsys.readouterr().err


def test_a_failure_has_fact_place_and_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(ci=True).error("proof", "one [thing] is so", "here", "do that", ["last line"])
    err = capsys.readouterr().err
    assert "│ last line" in err
    assert "proof: one [thing] is so" in err
    assert re.search(r"where +here", err) and re.search(r"next +do that", err)


def test_rows_stay_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(ci=True).table(("a", "b"), [("x", "long " * 40)])
    assert capsys.readouterr().out.splitlines()[1].endswith("long")


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.25, "4.2s"), (59.9, "59s"), (65, "1m 05s"), (7380, "2h 03m")]
)
def test_elapsed(seconds: float, text: str) -> None:
    assert terminal.elapsed(seconds) == text


def test_size() -> None:
    assert [terminal.size(n) for n in (7, 2_000, 3_500_000)] == ["7 B", "2.0 kB", "3.5 MB"]


def test_a_failure_is_broken_between_words_in_a_window_and_nowhere_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fact, advice = "a sentence of words " * 8, "name a mirror, " * 8 + "--toolchain debian"
    place = "env -C /build " + "x" * 100 + "  make"
    Terminal(ci=True).error("proof", fact, place, advice, [])
    assert len(capsys.readouterr().err.splitlines()) == 3
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    Terminal(ci=True).error("proof", fact, place, advice, [])
    text = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().err)
    assert place in text, "a command can be copied"
    lines = [line for line in text.splitlines() if place not in line]
    assert len(lines) > 4 and max(map(len, lines)) <= 80
    assert " ".join(text.split()) == " ".join(f"proof: {fact} where {place} next {advice}".split())

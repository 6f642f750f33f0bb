"""What is printed where nobody watches, and how a failure reads."""

from __future__ import annotations

import functools
import io
import re

import pytest
from rich.console import Console

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
    assert lines[1].endswith("1 package") and "done" in lines[2]


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


class Window(io.StringIO):
    """A stream that says that a person looks at it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> Window:
    """50 columns of plain text, which show both streams."""
    stream = Window()
    monkeypatch.setattr(terminal, "Console", functools.partial(Console, file=stream))
    for name, value in (("COLUMNS", "50"), ("LINES", "30"), ("TERM", "xterm"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    return stream


def seen(window: Window) -> list[str]:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", window.getvalue()).splitlines()


def test_a_failure_in_a_narrow_window_is_broken_between_words(window: Window) -> None:
    place = "/a/folder" * 10
    Terminal(ci=False).error("proof", "many words " * 8, place, "do that " * 9, ["a line " * 9])
    lines = seen(window)
    assert f"  where {place}" in lines  # whoever copies it gets it whole
    assert all(len(line) <= 50 for line in lines if place not in line)
    words = {"│", "proof:", "many", "words", "next", "do", "that", "a", "line"}
    assert {word for line in lines if place not in line for word in line.split()} == words


def test_a_last_cell_is_folded_where_there_is_room_and_else_stands_below(window: Window) -> None:
    terminal = Terminal(ci=False)
    terminal.table(("a", "b"), [("x", "some words " * 6)])
    assert seen(window)[1:] == [
        "x  some words some words some words some words",
        "   some words some words",
    ]
    window.truncate(0)
    terminal.table(("a", "b"), [("x" * 30, "some words " * 3), ("y", "short")])
    lines = seen(window)
    assert lines[-3:] == [
        "x" * 30,
        "    some words some words some words",
        "y" + " " * 31 + "short",
    ]


def test_a_hash_is_never_broken(window: Window) -> None:
    one, key = Terminal(ci=False), "0123456789abcdef" * 3
    one.table(("a", "b"), [("x", f"sha256 {key}"), ("y", "some words " * 5)])
    one.facts({"a": (f"commit {key}",)})
    assert seen(window)[1:] == [
        "x",
        "    sha256",
        f"    {key}",
        "y  some words some words some words some words",
        "   some words",
        "a  commit",
        f"     {key}",
    ]


def test_a_table_that_does_not_fit_at_all_is_groups_of_facts(window: Window) -> None:
    rows = [("a" * 30, "b" * 30, "c " * 30), ("x", "y", "z")]
    Terminal(ci=False).table(("one", "two", "three"), rows)
    assert seen(window) == [
        f"one    {'a' * 30}",
        f"two    {'b' * 30}",
        "three  c" + " c" * 21,
        "         c" + " c" * 7,
        "",
        "one    x",
        "two    y",
        "three  z",
    ]


def test_a_sentence_is_broken_between_words_in_a_window(window: Window) -> None:
    Terminal(ci=False).sentence("words of it " * 5)
    assert seen(window) == ["words of it words of it words of it words of it", "  words of it"]


def test_spare_columns_go_in_their_order_and_it_is_said(window: Window) -> None:
    Terminal(ci=False).table(("a", "b", "c", "d"), [("a" * 20, "b" * 20, "c" * 5, "d")], ("b", "c"))
    assert seen(window)[1:] == [
        f"{'a' * 20}  ccccc  d",
        "  without b: a wider window shows that too",
    ]


def test_facts_have_their_name_once_in_a_window_and_on_each_line_of_a_pipe(
    window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: tuple[dict[str, tuple[str, ...]], ...] = ({"a": ("1", "2")}, {}, {"bb": ("3 " * 30,)})
    Terminal(ci=False).facts(*groups)
    assert seen(window) == ["a   1", "    2", "", "bb" + "  3" + " 3" * 22, "     " + " 3" * 7]
    pipe = io.StringIO()
    monkeypatch.setattr(terminal, "Console", functools.partial(Console, file=pipe))
    Terminal(ci=False).facts(*groups)
    assert pipe.getvalue().splitlines() == ["a   1", "a   2", "", "bb  3" + " 3" * 29]


def test_live_lines_turn_and_leave_room_for_the_echo_of_ctrl_c(window: Window) -> None:
    shown = Terminal(ci=False)
    with shown.phase("compile runc", "packages") as one, shown.phase("compile kubelet") as other:
        one.step("github.com/" + "long/" * 20)
        other.line("words " * 20)
        console = Console(file=io.StringIO(), width=50)
        console.print(terminal._Frame([one, other], terminal.SIGNS))
    rows = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(rows) == 2 and all(len(row) == 47 and row.endswith("…") for row in rows)
    assert all(re.match("[⠀-⣿] compile ", row) for row in rows)
    assert "✓ compile runc" in seen(window)[-1] and "\x1b[?25h" in window.getvalue()


def test_a_locale_without_more_signs_gets_ascii(
    window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Terminal(ci=False, ascii=True)
    with one.phase("good"):
        pass
    with pytest.raises(ValueError, match="x"), one.phase("bad") as phase:
        phase.last = "words " * 20
        Console(file=window, width=50).print(terminal._Frame([phase], one._signs))
        raise ValueError("x")
    one.error("proof", "fact", "", "", ["a line"])
    assert window.getvalue().isascii()
    assert {"+ good", "x bad", "| a"} <= {" ".join(line.split()[:2]) for line in seen(window)}
    monkeypatch.setattr(Window, "encoding", "iso-8859-1")
    assert Terminal(ci=False)._signs is terminal.ASCII


def test_times_stand_below_each_other_where_there_is_room(
    window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(columns: int) -> list[str]:
        window.truncate(window.seek(0))
        monkeypatch.setenv("COLUMNS", str(columns))
        one = Terminal(ci=False)
        for title in ("prove", "compile kubelet v1.20.2"):
            with one.phase(title) as phase:
                phase.note = "a note of some words"
        lines = [line.rpartition("\r")[2] for line in seen(window)]
        return [line for line in lines if line and not re.match("[⠀-⣿]", line)]

    assert [line.index("0.0s") for line in ends(80)] == [31, 31]
    assert ends(40) == [
        "✓ prove  0.0s  a note of some words",
        "✓ compile kubelet v1.20.2  0.0s  a note",
        "  of some words",
    ]
    assert ends(35)[-2:] == ["✓ compile kubelet v1.20.2  0.0s  a", "  note of some words"]
    one = Terminal(ci=False)
    window.truncate(window.seek(0))
    one.say("long" * 20 + " word")
    assert seen(window) == ["  " + "long" * 20, "  word"]
    assert ends(33)[-2:] == ["✓ compile kubelet v1.20.2  0.0s", "  a note of some words"]


def test_a_dumb_terminal_and_ci_get_no_live_lines(
    window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Terminal(ci=False).live and not Terminal(ci=True).live
    monkeypatch.setenv("TERM", "dumb")
    assert not Terminal(ci=False).live


def test_colour_asked_for_in_a_pipe_brings_colour_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    one = Terminal(ci=False)
    one.table(("", "b"), [("pass", "long " * 40)])
    assert not one.live
    assert capsys.readouterr().out.splitlines()[1].endswith("long")


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


def test_a_failure_is_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(ci=True).error("proof", "a sentence " * 20, "make " * 40, "name a mirror " * 9, [])
    assert len(capsys.readouterr().err.splitlines()) == 3

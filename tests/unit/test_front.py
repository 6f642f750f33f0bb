"""What is said of words that are no task and no option, and how help reads."""

from __future__ import annotations

import re

import pytest

import tasks
from builders.tools import front


def said(words: str, capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    door = front.Front(namespace=tasks.namespace, binary="./run")
    with pytest.raises(SystemExit) as ended:
        door.run(["./run", *words.split()])
    assert (ended.value.code or 0) == code
    out, err = capsys.readouterr()
    assert not (err if code == 0 else out)
    return out or err


@pytest.mark.parametrize(
    ("words", "fact", "place", "next_step"),
    [
        ("plann", "'plann' is no task", "./run", "nearest: plan; ./run --help names them all"),
        ("--help plann", "'plann' is no task", "./run", "nearest: plan; ./run --help names"),
        ("--offline", "'--offline' is no option", "./run", "./run --help names them all"),
        (
            "plan --runcs x",
            "'--runcs' is no option of plan",
            "./run plan",
            "nearest: --runc, --runc-tags, --runc-source; ./run plan --help names them all",
        ),
        (
            "plan v1.20.2",
            "'v1.20.2' is no task and no option of plan",
            "./run plan",
            "./run plan --help names them all",
        ),
        ("plan --k8s", "--k8s needs a value", "./run plan", "./run plan --help names them all"),
    ],
)
def test_a_word_that_is_none_is_usage(
    words: str, fact: str, place: str, next_step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(words, capsys, 2)
    assert text.startswith(f"usage: {fact}\n  where {place}\n  next  {next_step}")


def test_help_has_the_options_in_the_order_of_the_signature(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "pty_size", lambda: (50, 24))
    text = said("plan --help", capsys)
    assert text.startswith("Usage: ./run plan [--options]\n\nPrint what a build would do. Contacts")
    shown = [match[1] for match in re.finditer(r"^  (--[a-z0-9-]+)(?:=STRING)?(?: |$)", text, re.M)]
    assert shown == [f"--{name.replace('_', '-')}" for name in (*tasks.WHAT, "format")]
    prose = text.partition("  --k8s=")[0]
    assert max(len(line) for line in prose.splitlines()) < 50
    assert said("--help lint", capsys).startswith("Usage: ./run lint\n")


def test_the_list_says_where_more_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    listed = said("--list", capsys)
    assert listed.startswith("Tasks:\n\n  audit ") and "cache.show (cache)" in listed
    assert said("--help", capsys).endswith(
        "./run --help TASK says more, and what its options are.\n"
    )

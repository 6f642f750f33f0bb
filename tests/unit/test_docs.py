"""What the documents promise is what the code has."""

from __future__ import annotations

import re
from typing import Any

from invoke.tasks import Task

import tasks
from builders import survey
from builders.errors import CATALOGUE
from tests.conftest import ROOT


def test_the_readme_sets_up_with_exactly_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    first = [line for line in blocks[0].splitlines() if line and not line.startswith("#")]
    assert first == ["./run build --k8s v1.20.2", "./run test"]


def test_exit_codes_are_documented_and_each_has_one_meaning() -> None:
    text = (ROOT / "docs/reference.md").read_text()
    codes = [error.exit_code for error in CATALOGUE]
    assert len(set(codes)) == len(codes)
    for error in CATALOGUE:
        assert re.search(rf"^\| {error.exit_code} \| {error.kind} \|", text, re.M), error


def test_every_task_and_option_is_in_the_reference() -> None:
    text = (ROOT / "docs/reference.md").read_text()
    for name, task in _tasks().items():
        assert f"### `{name}`" in text, name
        for argument in task.get_arguments():
            option = "--" + str(argument.name).replace("_", "-")
            assert f"`{option}`" in text, (name, option)
            assert argument.help, (name, option)


def test_each_picture_is_shown_and_shows_no_place_of_a_machine() -> None:
    pages = (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    shown = {
        (page.parent / place).resolve()
        for page in pages
        for place in re.findall(r"!\[[^\]]*\]\(([^)]*)\)", page.read_text())
    }
    assert shown == set((ROOT / "docs/pictures").glob("*.svg"))
    for path in shown:
        assert not re.search(r"/home/|/root/|/tmp/|@font-face", path.read_text()), path


def test_tasks_are_described_in_one_line_of_the_list_and_no_help_is_wider_than_a_window() -> None:
    for name, task in _tasks().items():
        first, *more = (task.__doc__ or "").strip().splitlines()
        assert len(first) <= 53 and first.endswith("."), name
        assert all(len(line.strip()) <= 78 for line in more), name


def test_help_is_shown_where_a_release_is_needed() -> None:
    """A positional argument would take the word --help for its value."""
    for name, task in _tasks().items():
        assert not any(argument.positional for argument in task.get_arguments()), name


def _tasks() -> dict[str, Task[Any]]:
    names = tasks.namespace.task_names
    return {name: tasks.namespace[name] for name in names}


def test_the_table_of_proofs_is_the_tools_own() -> None:
    """Made by `./run matrix --proofs --format markdown`, below a heading."""
    table = (ROOT / "docs/proofs.md").read_text().partition("\n| component")[2].splitlines()
    assert len(table) == len(survey.proofs()) + 2
    for line, row in zip(table[2:], survey.proofs(), strict=True):
        assert line == "| " + " | ".join(cell or "-" for cell in row) + " |"

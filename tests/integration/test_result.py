"""What the node script prints with --json: one schema, whatever the command and however it ends."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.integration.room import Room
from tests.rollout import BUILD, SCHEMA

COMMANDS = [name for name in SCHEMA["properties"]["command"]["enum"] if name]


@pytest.fixture
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Room:
    return Room(request, tmp_path)


def codes() -> dict[int, str]:
    rows = [one["properties"] for one in SCHEMA["oneOf"]]
    return {row["code"]["const"]: row["result"]["const"] for row in rows}


def test_codes_are_the_same_in_schema_help_and_reference(room: Room) -> None:
    told = room.tell("help").stdout.decode()
    assert {int(n) for n in re.findall(r"\d+", told[told.index("Exit codes:") :])} == codes().keys()
    text = (ROOT / "docs/reference.md").read_text()
    text = text[text.index("## The node script") : text.index("### Modes")]
    assert {int(n) for n in re.findall(r"^\| (\d+) \| ", text, re.M)} == codes().keys()
    for command in COMMANDS:
        assert f"\n  {command} " in told
        assert f"`{command}`" in text or command == "help"


#: On a machine that is no node, with nothing beside the script.
BARE = {
    "help": ("help", 0, "nokmem-rollout COMMAND"),
    "help, as an option": ("--help", 0, "nokmem-rollout COMMAND"),
    "no command": ("", 2, "no command is given"),
    "an unknown command": ("frobnicate", 2, "unknown command: frobnicate"),
    "an unknown option": ("apply --froom x", 2, "unknown option: --froom"),
    "a word too many": ("apply now", 2, "unknown word: now"),
    "an option without its value": ("apply --timeout", 2, "--timeout needs a value"),
    "a mode that is none": ("apply --mode both", 2, "in-place, drained or reboot"),
    "a number that is none": ("apply --timeout 1e3", 2, "is no number of seconds"),
    "a number too small": ("apply --confirm-within 059", 2, "is no number of seconds from 60"),
    "a unit that is none": ("status --unit a/b", 2, "is no unit's name"),
    "a root for others": ("status --root /", 2, "--root is for diagnose"),
    "no root": ("diagnose --root /nowhere", 2, "'/nowhere' has no proc"),
    "diagnose": ("diagnose", 0, ""),
    "preflight": ("preflight", 20, "this node is left as it is"),
    "stage": ("stage", 20, "there is no"),
    "stage from nowhere": ("stage --from /nowhere", 20, "there is no /nowhere/kubelet"),
    "stage from elsewhere": ("stage --from ftp://x", 20, "is no address"),
    "apply": ("apply", 20, ""),
    "apply, dry": ("apply --dry-run", 20, ""),
    "verify": ("verify", 20, "nothing was swapped here"),
    "status": ("status", 0, "none"),
    "confirm": ("confirm", 20, "nothing was swapped here"),
    "resume": ("resume", 10, "nothing was begun here"),
    "rollback": ("rollback", 10, "nothing was swapped here"),
    "seed": ("seed --from v1.15.3", 20, "there is no /var/lib/kubelet"),
    "retire": ("retire", 10, "nothing is kept"),
}


@pytest.mark.parametrize("name", BARE)
def test_every_command_answers_where_no_node_is(name: str, room: Room) -> None:
    words, code, summary = BARE[name]
    done = room.ask(*words.split())
    assert done.code == code and summary in done.said["summary"], done
    assert done.said["build"] == BUILD
    said = done.said["command"]
    assert said == ("" if code == 2 and "ommand" in summary else words.split()[0].strip("-"))
    told = room.tell(*words.split())
    assert told.returncode == code
    if code == 2:
        assert not told.stdout and b"next  nokmem-rollout help" in told.stderr
        assert done.said["findings"][0]["next"] == "nokmem-rollout help"
    elif said != "help":
        end = told.stdout.decode().splitlines()[-1]
        assert end == f"{codes()[code]}: {done.said['summary']}"


def test_staged_once(room: Room) -> None:
    room.bring()
    assert room.ask("stage", "--dry-run").code == 0 and not room.state.exists()
    assert room.ask("stage").code == 0
    assert room.ask("stage").code == 10
    folder = room.state / "staged" / BUILD
    names = {path.name for path in folder.iterdir()}
    assert names == {"kubelet", "runc", "nokmem-rollout"}
    (folder / "runc").write_bytes(b"another")
    assert room.ask("stage").code == 0, "what was damaged is brought again"
    (room.home / "runc").write_bytes(b"another")
    (folder / "runc").write_bytes(b"another")
    done = room.ask("stage")
    assert done.code == 20 and "is not the runc that was proven" in done.said["summary"]
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("command", ["stage", "apply", "resume", "rollback"])
def test_two_at_once(command: str, room: Room) -> None:
    room.bring()
    room.state.mkdir()
    with (room.state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = room.ask(command)
    assert done.code == 40 and "another run holds" in done.said["summary"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted(number: signal.Signals, room: Room) -> None:
    """While it fetches from a server that says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        process = room.begin("stage", "--from", f"http://127.0.0.1:{port}", "--json")
        connection, _ = server.accept()
        with connection:
            os.killpg(process.pid, number)
            done = room.end(process)
    assert done.code == 60 and "a signal" in done.said["summary"]
    assert not list((room.state / "staged").iterdir()) and not list(room.run.iterdir())


def test_an_end_that_nobody_foresaw(room: Room) -> None:
    room.program("awk", "exit 3")
    done = room.ask("diagnose")
    assert done.code == 1 and "ended with code 3" in done.said["summary"]
    assert room.tell("diagnose").stdout.startswith(b"unforeseen: ")


HOSTILE = {
    "signs": "a\"b\\c'd\te\x1b[31mred\x07\x7f$(touch hit);`id`[*",
    "lines": "a\nb\r\nc",
    "bytes": os.fsdecode(b"\xff\xfe\x80"),
    "empty": "",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_values(name: str, room: Room) -> None:
    word = HOSTILE[name]
    assert room.ask(word).code == 2
    assert room.ask("apply", word).code == 2
    assert room.ask("apply", f"--{word}", "x").code == 2
    for option in ("--mode", "--only", "--via", "--timeout", "--unit"):
        assert room.ask("apply", option, word).code == (
            20 if (option, word) == ("--only", "") else 2
        )
    assert room.ask("diagnose", "--root", word).code == 2
    assert room.ask("stage", "--from", f"/{word}").code == 20
    assert room.ask("stage", "--from", f"http://user:secret@localhost:1/{word}").code == 20
    assert room.ask("seed", "--from", word).code == 20
    assert room.ask("preflight", "--accept", word).code == 20
    run = room.state / "runs/0001"
    run.mkdir(parents=True, exist_ok=True)
    text = os.fsencode(f"2026-11-28T20:00:00Z 5 forward verify failed {word}\n")
    (run / "journal").write_bytes(text)
    (run / "plan").write_bytes(os.fsencode(f"schema 1\nbuild {BUILD}\nmode {word}\n"))
    (run / "result").write_bytes(os.fsencode(word))
    (room.state / "current").symlink_to("runs/0001")
    (room.state / "drift").write_bytes(os.fsencode(f"2026-11-28T20:00:00Z /usr/bin/{word}\n"))
    (room.state / "swapped").write_bytes(os.fsencode(f"{'0' * 64}  /usr/bin/{word}\n"))
    done = room.ask("status")
    assert done.code == 0 and done.finding("drift").startswith("warn ")
    told = room.tell("status").stdout
    assert re.fullmatch(rb"[\n -~]*", told), told
    assert room.ask("preflight").code == 20
    assert not list(room.home.glob("hit"))


def test_no_secret_of_an_address_is_shown(room: Room) -> None:
    for words in (("stage",), ("stage", "--dry-run"), ("apply",)):
        done = room.ask(*words, "--from", "http://user:secret@localhost:1/x")
        assert "secret" not in str(done.said) + done.progress


def test_what_is_kept_is_counted_and_not_what_a_kubelet_noted_of_its_own(room: Room) -> None:
    kept = {"docker://aa": {"expected": {"v1.20.2+nokmem.1": 7}}, "cri-o://bb": {}}
    images = {f"docker://{name}": "app:1" for name in ("aa", "cc", "dd")}
    state = {"schema": 1, "build": "v1.20.2+nokmem.1", "containers": kept, "images": images}
    (room.lib / "kubelet").mkdir()
    (room.lib / "kubelet/version-cache.json").write_text(json.dumps(state, indent=1))
    assert room.ask("status").said["facts"]["adoption"] == "v1.20.2+nokmem.1, 2 containers kept"

"""The steps of a swap one by one, on files of this machine; systemd and engines are played by scripts."""

from __future__ import annotations

import hashlib
import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rollout.script import script
from tests.conftest import leave_out
from tests.rollout import BUILD, MANIFEST, PATH, Done, answer

FOREIGN = "of somebody else's package"
#: What a node's programs are here: they say what one without kubelet says.
PLAYED = {
    "systemctl": """case "$*" in
"show -p MainPID "*) echo MainPID=${PLAYED_PID-0} ;;
show*) sed -n "s/^$3=/&/p" "${PLAYED_UNIT:-/dev/null}" ;;
esac""",
    "docker": "exit 1",
}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Run:
    """A run with a plan, whose functions are called."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "bin"
        self.state, self.place = folder / "state", folder / "place"
        self.library = folder / "library"
        self.library.write_text(script(MANIFEST).rpartition('main "$@"')[0])
        for one in (self.bin, self.place, self.state / "runs", folder / "scratch"):
            one.mkdir(parents=True)
        for name, text in PLAYED.items():
            self.program(name, text)
        self.kubelet, self.runc = self.place / "kubelet", self.place / "runc"
        self.targets = {self.kubelet: "old kubelet", self.runc: "old runc"}
        for target, text in self.targets.items():
            target.write_text(text)
        self.number = "0001"
        self.plan("0001")

    @property
    def run(self) -> Path:
        return self.state / "runs" / self.number

    def plan(self, number: str, *more: str, **texts: tuple[str, str]) -> None:
        """A run of that number that counts from now on; `texts` has the old and the new of each file."""
        self.number = number
        self.run.mkdir()
        texts = texts or {
            "kubelet": ("old kubelet", "new kubelet"),
            "runc": ("old runc", "new runc"),
        }
        lines = [
            "schema 1", f"build {BUILD}", "mode in-place", "from v1.20.2", "boot another",
            f"before {digest('old kubelet')}", f"after {digest('new kubelet')}", "kubelet yes",
            "unit kubelet.service", "timeout 1", "settle 0", "stable 0",
            *(f"target {name} {digest(old)} {digest(new)} {self.place / name}"
              for name, (old, new) in texts.items() if old),
            *more,
        ]  # fmt: skip
        (self.run / "plan").write_text("\n".join(lines) + "\n")
        (self.run / "journal").write_text("2026-11-28T20:00:00Z 5 forward hold ok \n")
        for name, (old, _) in texts.items():
            copy = Path(f"{self.run}/backup{self.place / name}")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(old)
        current = self.state / "current"
        current.unlink(missing_ok=True)
        current.symlink_to(f"runs/{number}")

    def finish(self, direction: str = "forward") -> None:
        with (self.run / "journal").open("a") as journal:
            journal.write(f"2026-11-28T20:00:00Z 5 {direction} finish ok \n")

    def beside(self) -> None:
        """What `place` leaves."""
        for target in self.targets:
            (self.place / f".{target.name}.nokmem-new").write_text(f"new {target.name}")
            os.link(target, self.place / f".{target.name}.nokmem-old")

    def program(self, name: str, text: str) -> None:
        log = f'echo "${{0##*/}} $*" >>{self.folder}/played'
        (self.bin / name).write_text(f"#!/bin/sh\n{log}\n{text}\n")
        (self.bin / name).chmod(0o755)

    def replace(self, target: Path, text: str = FOREIGN) -> None:
        """As a package does it."""
        other = target.with_name("other")
        other.write_text(text)
        other.rename(target)

    def call(
        self, code: str, before: tuple[str, ...] = (), /, **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        """The script's functions, by a program if there is one before it."""
        path = f"{self.bin}:{PATH}"
        bash = shutil.which("bash", path=path)
        assert bash
        begin = (
            f"STATE={self.state} RUN={self.run} RUN_NAME={self.number} SCRATCH={self.folder}/scratch\n"
            f"STAGED=$STATE/staged/$BUILD UNITS={self.folder}/units ADOPTION={self.folder}/adoption DROP_IN={self.folder}/drop-in\n"
        )
        file = self.folder / "called"
        file.write_text(f"{self.library.read_text()}{begin}{code}\n")
        return subprocess.run(
            [*before, bash, file],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=60,
            env={**os.environ, "PATH": path, **environment},
        )

    def said(self, code: str, **environment: str) -> str:
        """What that prints; it must not fail."""
        done = self.call(code, **environment)
        assert done.returncode == 0, done
        return done.stdout.decode()

    def ask(self, command: str, code: str = "", **environment: str) -> Done:
        """A command's own document."""
        words = f"JSON=yes COMMAND={command}\n{code}\n{command}"
        return answer(command, self.call(words, **environment))

    def findings(self, code: str, command: str = "preflight", **environment: str) -> Done:
        """What some checks say, as a command would."""
        words = f"JSON=yes COMMAND={command}\n{code}\nresult $DONE ''"
        return answer(code, self.call(words, **environment))

    def played(self) -> list[str]:
        """How the programs of a node were called."""
        return (self.folder / "played").read_text().splitlines()

    def texts(self) -> tuple[str, ...]:
        return tuple(target.read_text() for target in self.targets)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


# ---- what somebody else put there


def test_a_switch_overwrites_only_what_was_there(run: Run) -> None:
    run.beside()
    run.replace(run.runc)
    done = run.call(f"switch_proven {run.runc} || {{ echo $TROUBLE; exit 3; }}")
    assert done.returncode == 3 and b"somebody replaced it" in done.stdout, done
    run.replace(run.kubelet)
    assert run.call(f"switch {run.kubelet}").returncode == 1
    assert run.texts() == (FOREIGN, FOREIGN)


def test_a_switch_that_was_done_is_done(run: Run) -> None:
    run.beside()
    run.said("each_target '' switch_proven; each_target '' switch_proven")
    assert run.texts() == ("new kubelet", "new runc")


@pytest.mark.parametrize("name", ["kubelet", "runc"])
def test_a_boot_leaves_what_was_replaced_since_and_switches_nothing(name: str, run: Run) -> None:
    run.beside()
    run.replace(run.place / name)
    assert b"somebody replaced it" in run.call("boot").stderr
    want = {"kubelet": "old kubelet", "runc": "old runc", name: FOREIGN}
    assert run.texts() == tuple(want.values())
    assert "back begun begin" in (run.run / "journal").read_text()
    assert run.said("state_of $RUN") == "back\n"


def test_a_boot_switches(run: Run) -> None:
    run.beside()
    run.said("boot")
    assert run.texts() == ("new kubelet", "new runc")


BACK = "back_place && back_restore_kubelet && back_restore_runc && but_for"


def test_the_way_back_leaves_what_was_replaced_and_says_so(run: Run) -> None:
    run.beside()
    run.said("each_target '' switch_proven")
    run.replace(run.kubelet)
    assert run.said(BACK) == f", but for what somebody replaced: {run.kubelet}"
    assert run.texts() == (FOREIGN, "old runc")
    assert run.said(f"{BACK}; kubelet_back").endswith(f": {run.kubelet}{digest(FOREIGN)}")


def test_the_way_back_puts_there_what_was_lost(run: Run) -> None:
    run.beside()
    run.said("each_target '' switch_proven")
    run.kubelet.unlink()
    assert run.said(BACK) == ""
    assert run.texts() == ("old kubelet", "old runc")


def test_a_rollback_over_an_update_is_refused(run: Run) -> None:
    run.beside()
    run.said("each_target '' switch_proven")
    run.finish()
    assert run.ask("rollback", "DRY_RUN=yes").code == 0
    run.replace(run.kubelet)
    done = run.ask("rollback")
    assert done.code == 20 and done.finding("changed").startswith(
        f"refuse {run.kubelet} is neither"
    )
    assert run.ask("rollback", "DRY_RUN=yes ACCEPT=changed").code == 0
    assert run.texts() == (FOREIGN, "new runc")


# ---- from the backup


def test_what_comes_from_the_backup_is_like_the_file_whose_place_it_takes(run: Run) -> None:
    """As with a label, which this kernel may not have, but for owner and mode."""
    run.replace(run.runc, "new runc")
    run.runc.chmod(0o751)
    run.said(BACK)
    assert run.texts() == ("old kubelet", "old runc")
    assert run.runc.stat().st_mode & 0o7777 == 0o751
    run.runc.unlink()
    run.said(BACK)
    assert run.texts() == ("old kubelet", "old runc"), "where nothing is the backup is the pattern"


# ---- whether the node is well now

#: Time that passes by being asked for.
FAST = """since_boot() { echo >>"$SCRATCH/ticks"; wc -l <"$SCRATCH/ticks"; }
sleep() { :; }
"""


@contextmanager
def saying(answer: bytes, host: str) -> Iterator[int]:
    """A server of this machine's that says that; its port."""

    class Says(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if answer == b"ok" else 500)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer((host, 0), Says) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("host", "words", "answer", "found"),
    [
        ("127.0.0.1", "--healthz-port={}", b"ok", ""),
        ("127.0.0.1", "--healthz-port={} --healthz-bind-address=0.0.0.0", b"ok", ""),
        ("127.0.0.2", "--healthz-port={} --healthz-bind-address 127.0.0.2", b"ok", ""),
        ("127.0.0.2", "--config=CONFIG", b"ok", ""),
        ("127.0.0.2", "--healthz-port={}", b"ok", "refuse"),
        ("127.0.0.1", "--healthz-port={}", b"syncloop failed", "refuse"),
        ("127.0.0.1", "--healthz-port=0", b"", ""),
    ],
)
def test_a_kubelet_that_is_not_well_is_not_swapped(
    host: str, words: str, answer: bytes, found: str, run: Run
) -> None:
    with saying(answer, host) as port:
        config = run.folder / "config.yaml"
        config.write_text(f'healthzBindAddress: "{host}"\nhealthzPort: {port}\n')
        argv = words.format(port).replace("CONFIG", str(config))
        code = f"{FAST}KUBELET_PID=1 KUBELET_ARGV=(kubelet {argv})\nKUBELET_CONFIG=$(flag config)\ncheck_health"
        done = run.findings(code)
        assert done.finding("health").partition(" ")[0] == found, done
        assert (
            run.findings(f"ACCEPT=health\n{code}")
            .finding("health")
            .startswith("warn" if found else "")
        )


@pytest.mark.parametrize(
    ("answer", "found"),
    [("True", "ok Ready"), ("False", "refuse the node is not Ready: False"), ("Unknown", "refuse"), ("", "unseen")],
)  # fmt: skip
def test_a_node_that_is_not_ready_is_not_swapped(answer: str, found: str, run: Run) -> None:
    text = f'{{"type":"Ready","status":"{answer}","lastHeartbeatTime":"2026-11-28T20:00:00Z"'
    run.program("curl", f"cat >/dev/null; echo '{text}'" if answer else "exit 7")
    config = run.folder / "kubeconfig"
    config.write_text("clusters:\n- cluster:\n    server: https://127.0.0.1:1\n")
    code = f"{FAST}KUBELET_PID=1 KUBELET_ARGV=(kubelet --healthz-port=0 --kubeconfig={config})\ncheck_health"
    assert run.findings(code).finding("node").startswith(found)


@pytest.mark.parametrize(
    ("word", "found"), [("0", "ok docker"), ("1", "refuse docker runs and does not answer")]
)
def test_an_engine_that_does_not_answer_is_not_swapped_under(
    word: str, found: str, run: Run
) -> None:
    run.program("docker", f"case $1 in ps) exit {word} ;; esac; echo cgroupfs")
    code = "RUNTIME=docker ENGINE_UNITS=(docker.service)\ncheck_engine"
    assert run.findings(code).finding("engine").startswith(found)


# ---- what nobody confirms


def test_what_nobody_confirmed_waits_for_the_lock_however_long_it_takes(run: Run) -> None:
    """Of a run that was confirmed at last; seconds stand for the hours."""
    run.finish()
    holds = "( exec 8>>$STATE/lock; flock 8; touch $SCRATCH/held; sleep 3 ) &\nuntil [ -e $SCRATCH/held ]; do sleep 0.1; done"
    done = run.call(f"{holds}\nCOMMAND=work-back JSON=yes UNCONFIRMED=yes TIMEOUT=-599 work_back")
    assert done.returncode == 0, done


def test_the_timer_is_of_this_run(run: Run) -> None:
    """Whatever an older one is at."""
    run.plan("0007", "confirm 600")
    older = '*"ActiveState nokmem-rollout-unconfirmed.timer") echo ActiveState=active ;;'
    run.program("systemctl", f'case "$*" in {older} esac')
    run.said("forward_arm")
    started = [line for line in run.played() if line.startswith(("systemctl start", "systemd-run"))]
    assert len(started) == 1 and "nokmem-rollout-unconfirmed-0007" in started[0]


def test_a_window_that_ends_before_the_proof_is_refused(run: Run) -> None:
    words = "TIMEOUT=180 SETTLE=30 CONFIRM={}\ncheck_window"
    assert (
        run.findings(words.format(389))
        .finding("window")
        .startswith("refuse the proof may take 390 s")
    )
    assert not run.findings(words.format(390)).finding("window")
    assert not run.findings(words.format("")).finding("window")


# ---- what is known to be in its place


@pytest.mark.parametrize("when", ["before it is done", "once it is done"])
def test_the_way_back_from_a_second_hop_keeps_what_the_first_put_there(when: str, run: Run) -> None:
    other = f"{digest('x')}  /opt/other\n"
    first = other + "".join(f"{digest(f'new {t.name}')}  {t}\n" for t in run.targets)
    (run.state / "swapped").write_text(first)
    for target in run.targets:
        target.write_text(f"new {target.name}")
    run.plan("0002", kubelet=("new kubelet", "newer kubelet"), runc=("new runc", "newer runc"))
    (run.run / "swapped").write_text(first)
    if when == "once it is done":
        for target in run.targets:
            target.write_text(f"newer {target.name}")
        run.said("forward_finish")
        assert digest("newer runc") in (run.state / "swapped").read_text()
        assert run.said("drifted") == "/opt/other\n"
    run.said(f"{BACK} && back_finish")
    assert run.texts() == ("new kubelet", "new runc")
    assert (run.state / "swapped").read_text() == first
    assert run.said("drifted") == "/opt/other\n"


def test_the_way_back_from_the_first_hop_leaves_nothing_that_is_known(run: Run) -> None:
    for target in run.targets:
        target.write_text(f"new {target.name}")
    run.said("forward_finish")
    assert run.said(f"drifted; {BACK} && back_finish; drifted") == ""
    assert (run.state / "swapped").read_text() == ""


# ---- ids of memory cgroups


@pytest.mark.parametrize(
    ("mode", "found"), [("drained", "refuse"), ("in-place", "warn"), ("reboot", "warn")]
)
def test_a_node_without_ids_is_not_drained_anew(mode: str, found: str, run: Run) -> None:
    run.program("id", "echo 0")
    run.program(
        "mkdir", 'echo "mkdir: cannot create directory: No space left on device" >&2; exit 1'
    )
    code = f"MODE={mode} CGROUPS_OF=v1 MEMORY={run.place} ACCEPT=ids\ncheck_cgroups"
    done = run.findings(code)
    assert done.finding("ids").startswith(f"{found} no memory cgroup can be made any more"), done


# ---- what a restart would load


class Unit:
    """Kubelet's unit as systemd has it: loaded, and begun at noon."""

    def __init__(self, run: Run) -> None:
        self.run, self.folder = run, run.folder / "units"
        self.drop_ins = self.folder / "kubelet.service.d"
        self.drop_ins.mkdir(parents=True)
        self.fragment, self.drop_in = (
            self.folder / "kubelet.service",
            self.drop_ins / "10-kubeadm.conf",
        )
        self.flags, self.config = run.folder / "kubeadm-flags.env", run.folder / "config.yaml"
        for file in (self.fragment, self.drop_in, self.flags, self.config):
            self.write(file, "11:00")
        self.loaded = [self.drop_in]

    def write(self, file: Path, at: str) -> None:
        file.write_text("")
        subprocess.run(["touch", "-d", f"2026-11-28 {at} UTC", file], check=True)

    def finding(self, reload: str = "no", began: str = "Sat 2026-11-28 12:00:00 UTC") -> str:
        shown = self.run.folder / "shown"
        shown.write_text(
            f"ExecMainStartTimestamp={began}\nFragmentPath={self.fragment}\nNeedDaemonReload={reload}\n"
            f"DropInPaths={' '.join(map(str, self.loaded))}\n"
            f"EnvironmentFiles=/nowhere (ignore_errors=yes)\nEnvironmentFiles={self.flags} (ignore_errors=yes)\n"
        )
        code = (
            f"KUBELET_PID=1 KUBELET_CONFIG={self.config} UNIT_FOLDERS={self.folder}\ncheck_config"
        )
        return self.run.findings(code, PLAYED_UNIT=str(shown)).finding("config")


@pytest.fixture
def unit(run: Run) -> Unit:
    return Unit(run)


def test_what_kubelet_began_with_is_loaded_again(unit: Unit) -> None:
    assert unit.finding() == "ok nothing changed since kubelet began"
    assert unit.finding(began="").startswith("unseen ")


@pytest.mark.parametrize("name", ["fragment", "drop_in", "flags", "config"])
def test_what_changed_since_kubelet_began_is_refused(name: str, unit: Unit) -> None:
    file = getattr(unit, name)
    unit.write(file, "12:01")
    assert unit.finding() == f"refuse changed since kubelet began, and not tried by it: {file}"


def test_a_unit_that_is_not_loaded_as_it_is_is_refused(unit: Unit) -> None:
    assert unit.finding(reload="yes").startswith("refuse kubelet.service on the disk is not what")
    other = unit.drop_ins / "20-other.conf"
    unit.write(other, "11:00")
    assert unit.finding(reload="yes").endswith(f"not tried by it: {other}")
    other.unlink()
    unit.drop_in.unlink()
    assert unit.finding(reload="yes").endswith("10-kubeadm.conf is gone")


def test_what_this_project_brings_is_no_change(unit: Unit) -> None:
    for name in ("10-nokmem-adoption.conf", "20-nokmem-adoption.conf", "30-nokmem-http2.conf"):
        unit.write(unit.drop_ins / name, "12:01")
    assert unit.finding(reload="yes").startswith("ok ")
    unit.loaded = sorted(unit.drop_ins.iterdir())
    assert unit.finding().startswith("ok ")


# ---- which run is undone

#: What would go on in a unit of systemd.
STAYS = 'detach() { printf "%s\\n" "$1 ${RUN##*/}" >"$SCRATCH/detached"; }; follow() { result $DONE ""; }'


def undone(run: Run, *words: str) -> str:
    """What a rollback begins."""
    done = run.ask("rollback", "\n".join(("RUN_NAME=", STAYS, *words)))
    assert done.code == 0, done
    said = (run.folder / "scratch/detached").read_text().split()
    assert said[0] == "work-back" and (run.state / "current").resolve().name == said[1]
    return said[1]


@pytest.fixture
def hops(run: Run) -> Run:
    """Stock, a first build, a second one, and cgroups that were made anew."""
    run.finish()
    run.plan("0002", kubelet=("new kubelet", "newer kubelet"), runc=("new runc", "newer runc"))
    run.finish()
    for target in run.targets:
        target.write_text(f"newer {target.name}")
    lines = (f"{digest(f'newer {target.name}')}  {target}\n" for target in run.targets)
    (run.state / "swapped").write_text("".join(lines))
    run.plan("0003", kubelet=("", ""))
    run.finish()
    return run


def test_a_run_that_replaced_nothing_is_not_what_is_undone(hops: Run) -> None:
    assert (
        hops.ask("rollback", "RUN_NAME= DRY_RUN=yes").said["summary"].startswith("would put back /")
    )
    assert (hops.state / "current").resolve().name == "0003"
    assert undone(hops) == "0002"


def test_the_way_to_what_was_before_everything(hops: Run) -> None:
    assert undone(hops, "RUN_NAME=1") == "0001"
    hops.number = "0001"
    hops.said(f"{BACK} && back_finish")
    assert hops.texts() == ("old kubelet", "old runc")
    assert (hops.state / "swapped").read_text() == ""
    hops.finish("back")
    assert hops.ask("rollback", "RUN_NAME=").said["summary"] == "run 0001 is rolled back already"


def test_one_after_the_other_is_undone_when_asked_for(hops: Run) -> None:
    assert undone(hops) == "0002"
    hops.number = "0002"
    hops.said(f"{BACK} && back_finish")
    hops.finish("back")
    said = hops.ask("rollback", "RUN_NAME=")
    assert said.code == 10 and said.said["summary"].endswith("before run 0001: rollback --run 0001")
    assert undone(hops, "RUN_NAME=1") == "0001"


def test_what_cannot_be_undone_is_refused(hops: Run) -> None:
    done = hops.ask("rollback", "RUN_NAME=9")
    assert done.code == 20 and "there is no run 9" in done.said["summary"]
    for number in (1, 2):
        shutil.rmtree(hops.state / f"runs/000{number}")
    done = hops.ask("rollback", "RUN_NAME=")
    assert done.code == 20 and "0003 replaced no file" in done.said["summary"]


def test_what_was_there_before_everything_is_kept(run: Run) -> None:
    for number in range(1, 8):
        if number > 1:
            run.plan(f"{number:04}", kubelet=("new kubelet", "newer kubelet"))
        if number in (1, 2):
            with (run.run / "plan").open("a") as plan:
                plan.write(f"origin {run.kubelet}\n" if number == 2 else f"origin {run.runc}\n")
        run.finish()
    run.finish("back")
    run.said("prune")
    kept = sorted(path.name for path in (run.state / "runs").iterdir())
    assert kept == ["0001", "0002", "0005", "0006", "0007"]


def test_whose_file_is_replaced(run: Run) -> None:
    words = f"target kubelet {digest('a')} {digest('b')} {run.kubelet}"
    assert run.said(words).splitlines() == [words, f"origin {run.kubelet}"]
    (run.state / "swapped").write_text(f"{digest('a')}  {run.kubelet}\n")
    assert run.said(words).splitlines() == [words]


# ---- a worker that is killed


def test_a_worker_that_is_killed_is_begun_again(run: Run) -> None:
    run.said("detach work")
    (unit,) = (run.folder / "units").iterdir()
    text = unit.read_text()
    assert "nokmem-rollout work --run 0001\n" in text and "\nRestart=on-abnormal\n" in text
    assert f"systemctl start {unit.name}" in run.played()
    run.said("detach work-back")
    (unit,) = (run.folder / "units").iterdir()
    assert "-work-back-" in unit.name, "and not beside another one"


def test_who_follows_one_that_will_be_begun_again_is_told_so(run: Run) -> None:
    shown = 'case "$*" in show*ActiveState*) echo ActiveState=activating ;; show*SubState*) echo SubState=auto-restart ;; list-units*) echo a loaded activating auto-restart ;; esac'
    run.program("systemctl", shown)
    done = run.ask("follow", "SHOWN=0 WORKER=a.service COMMAND=apply")
    assert done.code == 60 and "goes on by itself in half a minute" in done.said["summary"]
    assert "goes on by itself" in run.ask("status", "RUN_NAME=").finding("run")


@pytest.mark.parametrize(
    ("state", "code"),
    [("forward finish ok", 0), ("back finish ok", 30), ("forward verify ok", None)],
)
def test_one_that_was_killed_at_its_very_end_says_what_it_came_to(
    state: str, code: int | None, run: Run
) -> None:
    with (run.run / "journal").open("a") as journal:
        journal.write(
            "2026-11-28T20:00:00Z 5 back begun begin it failed\n" if "back" in state else ""
        )
        journal.write(f"2026-11-28T20:00:00Z 6 {state} \n")
    words = "COMMAND=work let_go() { :; }\nundo() { exit 7; }\nstep() { exit 7; }\nwork"
    done = run.call(words.replace("COMMAND=work ", "COMMAND=work\n"))
    assert done.returncode == (7 if code is None else 0), done
    if code is not None:
        assert (run.run / "result").read_text() == f"{code}\n"


def test_a_way_back_that_nobody_asked_for_goes_on(run: Run) -> None:
    with (run.run / "journal").open("a") as journal:
        journal.write("2026-11-28T20:00:00Z 5 back begun begin nobody confirmed run 0001\n")
    words = 'COMMAND=work-back UNCONFIRMED=yes\nundo() { echo "$1"; exit 7; }\nwork_back'
    done = run.call(words)
    assert done.returncode == 7 and done.stdout == b"nobody confirmed run 0001\n", done


# ---- small things that happen


@pytest.mark.parametrize(
    ("ends", "found"), [(True, "ok the staged runc"), (False, "refuse the staged runc does not")]
)
def test_a_container_that_ends_while_it_is_asked_for_is_not_missed(
    ends: bool, found: str, run: Run
) -> None:
    state = run.folder / "containers/a/state.json"
    state.parent.mkdir(parents=True)
    state.write_text("{}")
    staged = run.state / "staged" / BUILD
    staged.mkdir(parents=True)
    (staged / "runc").write_text(f"#!/bin/sh\n{f'rm {state}' if ends else ':'}\nexit 1\n")
    (staged / "runc").chmod(0o755)
    text = run.library.read_text().replace("readonly RUNC_ROOTS=", "RUNC_ROOTS=")
    run.library.write_text(text)
    code = f"RUNC_ROOTS={state.parent.parent}\nis() {{ :; }}\ncheck_age() {{ :; }}\ncheck_mix"
    assert run.findings(code).finding("mix").startswith(found)


def test_what_an_engine_says_is_no_step_back(run: Run) -> None:
    with (run.run / "journal").open("a") as journal:
        journal.write(
            "2026-11-28T20:00:00Z 5 forward start_engine failed it does not come back at all\n"
        )
    assert run.said("state_of $RUN") == "forward\n"


def test_a_journal_that_does_not_answer_holds_nothing_up(run: Run) -> None:
    """Seconds stand for the minute."""
    run.program("journalctl", "sleep 30 >/dev/null")
    run.program("timeout", 'shift; exec /usr/bin/timeout 1 "$@"')
    run.said("last_words")
    assert run.findings("check_log").finding("log") == "unseen the journal does not answer"


def test_a_dry_run_of_what_is_not_staged_says_that_it_would_be(run: Run) -> None:
    code = "FROM=https://user:secret@files.example/x DRY_RUN=yes\ncheck_staged"
    done = run.findings(code, "apply")
    want = "note kubelet, runc: would be staged first, from https://files.example/x"
    assert done.code == 0 and done.finding("staged") == want, done
    assert run.findings(code, "preflight").finding("staged").startswith("refuse ")


def test_a_full_disk_has_room_for_the_result(request: pytest.FixtureRequest, run: Run) -> None:
    mapped = [] if os.geteuid() == 0 else ["--map-root-user"]
    words = (
        "mount -t tmpfs -o size=2m none $STATE && mkdir -p $RUN && echo mode in-place >$RUN/plan\n"
        "head -c 1048576 /dev/zero >$RUN/reserve; cat /dev/zero >$STATE/filler 2>/dev/null || true\n"
        "( COMMAND=work; conclude $DONE 'all is done' ); cat $RUN/result $RUN/report.txt; [ -s $RUN/report.json ]"
    )
    done = run.call(words, ("unshare", "--mount", *mapped))
    if b"unshare" in done.stderr or b"mount:" in done.stderr:
        leave_out(request, "root", "this user may not mount in a namespace of its own")
    assert done.returncode == 0 and done.stdout == b"0\ndone: all is done\n", done


# ---- what ends by itself

UID = "0b5e9d4c-7a52-4d1e-9c3f-5a1f0e6d7c8b"
CONTAINER, SANDBOX = "ab" * 32, "cd" * 32
PLACES = {
    "cgroupfs": f"/sys/fs/cgroup/memory/kubepods/burstable/pod{UID}/{{}}",
    "systemd": f"/m/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/docker-{{}}.scope",
    "static": f"/sys/fs/cgroup/memory/kubepods/pod{UID.replace('-', '')}/{{}}",
}


def listed(phase: str, uid: str = UID, more: str = "") -> str:
    status = f'"spec":{{"nodeName":"node-1"}},"status":{{"phase":"{phase}","conditions":[]}}}}'
    return f'{{"metadata":{{"name":"job-1","namespace":"default","uid":"{uid}"{more}}},{status}'


OTHER = listed("Running", UID.replace("0b", "1c"))
DELETED = ',"deletionTimestamp":"2026-11-28T20:00:00Z"'


@pytest.mark.parametrize(
    ("place", "pods", "blamed"),
    [
        ("cgroupfs", [OTHER, listed("Succeeded")], False),
        ("systemd", [OTHER, listed("Succeeded")], False),
        ("cgroupfs", [listed("Running", more=DELETED)], False),
        ("cgroupfs", [OTHER], False),
        ("systemd", [OTHER], False),
        ("cgroupfs", [listed("Running"), OTHER], True),
        ("systemd", [listed("Running")], True),
        ("cgroupfs", [listed("Failed")], True),
        ("static", [OTHER], True),
        ("cgroupfs", None, True),
    ],
)
def test_what_ended_by_itself_is_not_missed(
    place: str, pods: list[str] | None, blamed: bool, run: Run
) -> None:
    (run.folder / "pods").write_text(
        f'{{"kind":"PodList","apiVersion":"v1","metadata":{{}},"items":[{",".join(pods or ())}]}}\n'
    )
    node = '{"type":"Ready","status":"True","lastHeartbeatTime":"2026-11-28T20:00:00Z"'
    heard = f"*api/v1/pods*) cat {run.folder}/pods ;; *api/v1/nodes*) echo '{node}' ;;"
    run.program("curl", f"case $(cat) in {heard} esac" if pods is not None else "exit 7")
    config = run.folder / "kubeconfig"
    config.write_text("clusters:\n- cluster:\n    server: https://127.0.0.1:1\n")
    runs = "ef" * 32
    (run.run / "forward.containers").write_text(
        f"{CONTAINER} 100 1\n{SANDBOX} 100 2\n{runs} 100 3\n"
    )
    (run.run / "forward.names").write_text(f"{CONTAINER} default/job-1/app 0\n")
    (run.run / "forward.cgroups").write_text(
        "".join(f"7 {PLACES[place].format(one)}\n" for one in (CONTAINER, SANDBOX))
    )
    with (run.run / "journal").open("a") as journal:
        journal.write("2026-11-28T20:00:00Z 999 forward record begin \n")
    code = (
        f"{FAST}KUBELET_ARGV=(kubelet --kubeconfig={config})\nSETTLE=0 STABLE=60\n"
        f"containers() {{ echo {runs} 100 3; }}\nnames() {{ :; }}\n"
        'await_containers forward || finding warn blamed "$TROUBLE"'
    )
    done = run.findings(code)
    if blamed:
        assert done.finding("blamed").endswith(
            "gone or restarted: default/job-1/app, the sandbox cdcdcdcdcdcd"
        )
    else:
        assert not done.finding("blamed")
        first, second = done.finding("containers").splitlines()
        assert first == "ok 1 that were stable run on, with their ids and start times"
        assert second.endswith("ran to their end: default/job-1/app, the sandbox cdcdcdcdcdcd")

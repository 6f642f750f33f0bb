"""The CI files for users, run: their scripts by a real shell, step by step and job by job, as the
services do it, on a real dist folder, with a key that has a passphrase and a folder as target.

What stands for the services is here: a checkout for each job, what is handed on between them, and
apt-get, of which every package must be known."""

from __future__ import annotations

import os
import re
import shutil
import string
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from builders.tools import gpg, process
from tests.conftest import ROOT, VERSION, leave_out
from tests.e2e.conftest import MINUTES

PASSPHRASE = "no log may have this"  # noqa: S105 -- of a key that is made here
APT_GET = """#!/bin/sh
for word; do
    case $word in -* | update | install) continue ;; esac
    dpkg-query --show "$word" >/dev/null 2>&1 || apt-cache show "$word" >/dev/null || exit 100
done
"""
Harm = Callable[[Path], None]


@dataclass(frozen=True)
class Step:
    """What a service gives to one shell, and what it does instead, if that is no script."""

    name: str
    script: str
    environment: dict[str, str] = field(default_factory=dict)
    takes: str = ""
    keeps: str = ""


@dataclass
class Service:
    """Runs the jobs of a file; `said` is all that they printed."""

    clone: Path
    built: Path
    folder: Path
    environment: dict[str, str]
    said: str = ""
    done: list[str] = field(default_factory=list)

    def run(self, jobs: dict[str, list[Step]], harms: dict[str, Harm]) -> bool:
        """Whether all went well: a step that fails ends its job, and no other follows."""
        return all(self._job(name, steps, harms) for name, steps in jobs.items())

    def _job(self, name: str, steps: list[Step], harms: dict[str, Harm]) -> bool:
        work, store = self.folder / f"job-{name}", self.folder / "artifacts"
        store.mkdir(exist_ok=True)
        git = process.require("git", "to check out")
        assert process.run([git, "clone", "--quiet", f"file://{ROOT}", str(work)]).ok
        (work / ".venv").symlink_to(self.clone / ".venv")
        if name == "build":
            shutil.copytree(self.built, work / "dist" / VERSION)
        for step in steps:
            if step.takes:
                shutil.copy2(store / step.takes, work / f"dist-{VERSION}.tar")
            elif step.keeps:
                shutil.copy2(work / f"dist-{VERSION}.tar", store / step.keeps)
            elif step.script and not self._shell(f"{name}: {step.name}", step, work):
                return False
            if f"{name}: {step.name}" in harms:
                harms[f"{name}: {step.name}"](self.folder)
        return True

    def _shell(self, title: str, step: Step, work: Path) -> bool:
        script = self.folder / "script"
        script.write_text(step.script)
        ran = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=work, env={**self.environment, **step.environment}, text=True, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=20 * MINUTES,
        )  # fmt: skip
        self.said += f"--- {title}: {ran.returncode}\n{ran.stdout}"
        self.done += [title] if ran.returncode == 0 else []
        return ran.returncode == 0


def github(key: str, to: Path) -> dict[str, list[Step]]:
    values = {
        "matrix.k8s": VERSION,
        "secrets.NOKMEM_SIGNING_KEY": key,
        "secrets.NOKMEM_SIGNING_PASSPHRASE": PASSPHRASE,
        "github.token": "no log may have this either",
        "inputs.to || format('github:{0}@{1}-{2}', github.repository, matrix.k8s, "
        "github.run_number)": str(to),
    }

    def filled(words: dict[str, Any]) -> dict[str, str]:
        return {
            name: re.sub(r"\$\{\{ (.*?) \}\}", lambda match: values[match[1]], str(value))
            for name, value in words.items()
        }

    jobs: dict[str, list[Step]] = {}
    for name, job in load("github.yml")["jobs"].items():
        jobs[name] = steps = []
        for step in job["steps"]:
            kind = step.get("uses", "").partition("@")[0].removeprefix("actions/")
            if kind in ("", "checkout", "cache"):
                own = filled({**job["env"], **step.get("env", {})})
                steps.append(Step(step.get("name", kind), step.get("run", ""), own))
                continue
            given = filled(
                {name: step["with"][name] for name in ("name", "path") if name in step["with"]}
            )
            if kind == "download-artifact":
                steps.append(Step(kind, "", takes=given["name"]))
            else:
                assert (kind, given["path"]) == ("upload-artifact", f"dist-{VERSION}.tar")
                steps.append(Step(kind, "", keeps=given["name"]))
    return jobs


def gitlab(key: str, to: Path) -> dict[str, list[Step]]:
    document = load("gitlab.yml")
    file = to.parent / "key"
    file.write_text(key)
    known = {
        "CI_PROJECT_DIR": ".", "CI_API_V4_URL": "https://gitlab.invalid/api/v4",
        "CI_PROJECT_ID": "1", "CI_PIPELINE_IID": "7", "CI_JOB_TOKEN": "no log may have this either",
        "K8S": VERSION,
    }  # fmt: skip
    jobs: dict[str, list[Step]] = {}
    for name in document["stages"]:
        job = document[name]
        bases = [job["extends"]] if isinstance(job["extends"], str) else job["extends"]
        for base in bases:
            job = {**document[base], **job}
        words = {"NOKMEM_CACHE": "", **job.get("variables", {})}
        own = {key: string.Template(value).substitute(known) for key, value in words.items()}
        own |= {"K8S": VERSION, **({"TO": str(to)} if "TO" in own else {})}
        if job.get("environment", {}).get("name") == "nokmem-signing":
            own |= {"NOKMEM_SIGNING_KEY": str(file), "NOKMEM_SIGNING_PASSPHRASE": PASSPHRASE}
        del own["NOKMEM_CACHE"]  # this machine's is warm
        steps = [Step("artifacts", "", takes=one) for one in job.get("dependencies", [])]
        assert all(one in jobs for one in job.get("dependencies", []))
        # one shell for all there; here it is seen how far it comes
        at = next((n for n, line in enumerate(job["script"]) if "verify" in line), 0)
        title = "Verify" if name != "build" else "Build"
        steps.append(Step(title, "\n".join(job["script"][: at + (name != "build")]), own))
        if name == "build":
            steps.append(Step("Verify", job["script"][at], own))
        rest = "\n".join(job["script"][at + 1 :])
        steps.append(Step({"publish": "Publish"}.get(name, "Pack"), rest, own))
        steps += [Step("keep", "", keeps=name)] if "artifacts" in job else []
        jobs[name] = steps
    return jobs


def load(name: str) -> Any:
    return YAML(typ="safe").load((ROOT / "docs/ci" / name).read_text())


@pytest.fixture(scope="module")
def keys(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """A secret key with a passphrase, armored, and the file of its public one."""
    if not all(map(process.find, ("gpg", "gpgv", "rpmsign"))):
        leave_out(request, "rpm", "not installed")
    home = tmp_path_factory.mktemp("gnupg")
    home.chmod(0o700)

    def run(*words: str) -> str:
        return subprocess.run(
            ["gpg", "--homedir", str(home), "--batch", "--pinentry-mode", "loopback",
             "--passphrase", PASSPHRASE, *words],
            check=True, text=True, capture_output=True,
        ).stdout  # fmt: skip

    run("--quick-generate-key", "ci", "rsa2048", "sign", "never")
    (home / "public").write_text(run("--armor", "--export", "ci"))
    yield run("--armor", "--export-secret-keys", "ci"), home / "public"
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)


@pytest.fixture
def service(clone: Path, built: Path, tmp_path: Path) -> Service:
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    (stand_ins / "apt-get").write_text(APT_GET)
    (stand_ins / "apt-get").chmod(0o755)
    (tmp_path / "published").mkdir()
    passed = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("HOME", "NOKMEM_CACHE", "XDG_", "DOCKER_", "PIP_", "SSL_"))
        or name.lower().endswith("_proxy")
    }
    path = f"{stand_ins}:{os.environ['PATH']}"
    return Service(clone, built, tmp_path, {**passed, "PATH": path, "CI": "true"})


@pytest.mark.parametrize("kind", [github, gitlab])
def test_it_builds_proves_packages_signs_and_publishes(
    kind: Callable[[str, Path], dict[str, list[Step]]], service: Service, keys: tuple[str, Path]
) -> None:
    secret, public = keys
    target = service.folder / "published"
    assert service.run(kind(secret, target), {}), service.said
    place = target / VERSION
    names = {path.name for path in place.iterdir()}
    assert {"kubelet", "runc", "manifest.json", "SHA256SUMS.asc"} < names
    assert sum(name.endswith(".rpm") for name in names) == 3
    assert gpg.verified(place / "SHA256SUMS", public)
    result, text = process.capture(["sh", "-c", f"cd '{place}' && sha256sum -c SHA256SUMS"])
    assert result.ok, text
    assert "no log may have this" not in service.said
    assert not [line for line in secret.splitlines() if len(line) > 40 and line in service.said]
    assert service.said.count("this very build stands there") == 1
    # a job that is done once more has nothing to send
    shutil.rmtree(service.folder / "job-publish")
    jobs = {"publish": kind(secret, target)["publish"]}
    assert service.run(jobs, {}) and "nothing to send" in service.said, service.said


def flip(folder: Path) -> None:
    """A bit of the kubelet that was just built, in the checkout of its job."""
    kubelet = folder / "job-build/dist" / VERSION / "kubelet"
    content = bytearray(kubelet.read_bytes())
    content[-1] ^= 1
    kubelet.write_bytes(content)


def flip_packed(folder: Path) -> None:
    """A bit of it on the way to whoever packages or publishes."""
    for path in (folder / "artifacts").iterdir():
        content = bytearray(path.read_bytes())
        content[content.rindex(b"nokmem_adoption_events_total")] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("kind", [github, gitlab])
@pytest.mark.parametrize(
    ("after", "harm", "done"),
    [
        ("build: Build", flip, []),
        ("build: Pack", flip_packed, ["build: Verify", "build: Pack"]),
    ],
)
def test_what_does_not_verify_stops_it_and_nothing_is_published(
    kind: Callable[[str, Path], dict[str, list[Step]]], after: str, harm: Harm, done: list[str],
    service: Service, keys: tuple[str, Path],
) -> None:  # fmt: skip
    jobs = kind(keys[0], service.folder / "published")
    if harm is flip_packed:  # when it was handed on
        after = f"build: {jobs['build'][-1].name}"
    assert not service.run(jobs, {after: harm})
    assert re.search("FAIL +kubelet +hash", service.said), service.said
    said = [title for title in service.done if not title.endswith((": Install", ": Build"))]
    assert said == done
    assert not list((service.folder / "published").iterdir())
    assert sum("Pack" in title for title in service.done) == len(done) // 2


@pytest.mark.parametrize("kind", [github, gitlab])
def test_its_scripts_are_sound(
    kind: Callable[[str, Path], dict[str, list[Step]]], request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:  # fmt: skip
    shellcheck = process.find("shellcheck")
    assert shellcheck, "apt-get install shellcheck"
    (tmp_path / "to").mkdir()
    for name, steps in kind("", tmp_path / "to").items():
        for step in steps:
            script = tmp_path / "script"
            script.write_text(f"#!/bin/bash\n{step.script}\n")
            result, text = process.capture([shellcheck, str(script)])
            assert result.ok, (name, step.name, text)

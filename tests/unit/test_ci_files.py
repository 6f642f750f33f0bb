"""The CI files for users: what each job may do, and what it is given. That they run is seen in
tests/e2e/test_ci_files.py, that they are well-formed by `./run lint`."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT

FOLDER = ROOT / "docs/ci"


def load(name: str) -> Any:
    return YAML(typ="safe").load((FOLDER / name).read_text())


@pytest.fixture(scope="module")
def github() -> dict[str, Any]:
    jobs: dict[str, Any] = load("github.yml")["jobs"]
    return jobs


@pytest.fixture(scope="module")
def gitlab() -> dict[str, Any]:
    document: dict[str, Any] = load("gitlab.yml")
    return document


def test_each_action_is_pinned_by_its_commit_and_says_which_release_that_is() -> None:
    text = (FOLDER / "github.yml").read_text()
    uses = re.findall(r"uses: (.*)", text)
    assert len(uses) > 5
    assert not [u for u in uses if not re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v[\d.]+", u)]
    assert len(set(uses)) == 4, "each action is there in one release"


def test_a_job_may_only_read_but_the_one_that_makes_a_release(github: dict[str, Any]) -> None:
    assert load("github.yml")["permissions"] == {}
    rights = {name: job["permissions"] for name, job in github.items()}
    reads = {"contents": "read"}
    assert rights == {"build": reads, "package": reads, "publish": {"contents": "write"}}
    for job in github.values():
        checkouts = [s for s in job["steps"] if "checkout" in s.get("uses", "")]
        assert [step["with"] for step in checkouts] == [{"persist-credentials": False}]


def test_secrets_are_given_to_the_one_step_that_needs_them(github: dict[str, Any]) -> None:
    """And nothing that somebody typed becomes a part of a script."""
    holders = {}
    for name, job in github.items():
        outside = {key: value for key, value in job.items() if key != "steps"}
        assert "secrets." not in str(outside) and "github.token" not in str(outside)
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), step
            found = re.findall(r"secrets\.\w+|github\.token", str(step))
            if found:
                holders[name, step["name"]] = sorted(found)
    assert holders == {
        ("package", "Package and sign"): [
            "secrets.NOKMEM_SIGNING_KEY", "secrets.NOKMEM_SIGNING_PASSPHRASE",
        ],
        ("publish", "Publish"): ["github.token"],
    }  # fmt: skip
    assert github["package"]["environment"] == "nokmem-signing"


def test_gitlab_gives_the_key_to_the_job_that_signs(gitlab: dict[str, Any]) -> None:
    jobs = {name: str(gitlab[name]) for name in gitlab["stages"]}
    assert [name for name, text in jobs.items() if "SIGNING" in text] == ["package"]
    assert [name for name, text in jobs.items() if "nokmem-signing" in text] == ["package"]
    assert [name for name, text in jobs.items() if "CI_JOB_TOKEN" in text] == ["publish"]
    assert "PROTECTED" in str(gitlab["workflow"])


def test_both_build_a_list_of_releases_and_keep_what_was_fetched(
    github: dict[str, Any], gitlab: dict[str, Any]
) -> None:
    for job in github.values():
        assert job["strategy"]["matrix"] == {"k8s": "${{ fromJSON(inputs.versions) }}"}
    assert gitlab[".release"]["parallel"]["matrix"] == [{"K8S": ["v1.20.2"]}]
    kept = [s["with"]["path"].split() for s in github["build"]["steps"] if "cache@" in str(s)]
    assert kept == [["~/.cache/nokmem/files", "~/.cache/nokmem/git"]]
    assert gitlab[".release"]["cache"]["paths"] == [".cache/nokmem/files", ".cache/nokmem/git"]

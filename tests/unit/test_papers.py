"""Of a dist folder whose hashes all fit, which paper `verify` refuses. Its binaries are none, and so
refused too: what is looked at here is what is said of the rest."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from builders import pipeline
from builders.errors import ProofError
from builders.model.artifact import (
    MANIFEST,
    PACKAGES_PROVENANCE,
    PLAN,
    PROVENANCE,
    REPORT,
    SBOM,
    SCRIPT,
    Binary,
    CheckReport,
    Package,
)
from builders.model.plan import BuildPlan
from builders.steps import checks, manifest, provenance
from builders.steps.checks import Expected
from builders.tools.cache import sha256_of
from tests import falsified
from tests.conftest import REQUEST
from tests.integration import small
from tests.unit.test_manifest import write

RPM = "runc-nokmem-1-1.x86_64.rpm"
Change = Callable[[Path], object]


def text(name: str, old: str, new: str) -> Change:
    """Another text in a paper."""

    def change(place: Path) -> None:
        before = (place / name).read_text()
        assert old in before
        (place / name).write_text(before.replace(old, new))

    return change


def data(name: str, change: Callable[[Any], object]) -> Change:
    """Other data in a paper."""

    def write_again(place: Path) -> None:
        value = json.loads((place / name).read_text())
        change(value)
        (place / name).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")

    return write_again


def each(*changes: Change) -> Change:
    def change(place: Path) -> None:
        for one in changes:
            one(place)

    return change


def with_packages(place: Path) -> None:
    """As `package` leaves it."""
    described = manifest.read(place)
    (place / RPM).write_text("no package")
    one = Package("runc-nokmem", "1", "1", place / RPM, 10, sha256_of(place / RPM))
    described = manifest.with_packages(described, [one])
    told = provenance.make_packages(described, {"name": "debian"}, "1.0")
    (place / PACKAGES_PROVENANCE).write_text(told)
    described = manifest.with_files(described, place, [PACKAGES_PROVENANCE])
    (place / MANIFEST).write_text(described.to_json())
    falsified.fit(place)


def refused(place: Path) -> set[str]:
    return {row.binary for row in pipeline.verify(place)[1].failures} - {"kubelet", "runc"}


FALSE: dict[str, tuple[Change, set[str]]] = {
    "nothing": (lambda _: None, set()),
    "another commit": (
        text(PLAN, "faecb196815e248d3ecfb03c680a4507229c2a56", "0" * 40),
        {PLAN, SBOM, PROVENANCE, MANIFEST},
    ),
    "another time": (data(PLAN, lambda it: it.update(epoch=1)), {PLAN, SBOM, PROVENANCE, MANIFEST}),
    "a patch less": (
        data(PLAN, lambda it: it["components"][1]["source"]["patches"].pop()),
        {PLAN, SBOM, PROVENANCE, MANIFEST},
    ),
    "another report": (text(REPORT, "as it should be", "as it is"), {PROVENANCE}),
    "a line more": (text(SCRIPT, "#!/bin/bash\n", "#!/bin/bash\ntrue\n"), {SCRIPT, PROVENANCE}),
    "a patch less in the bill": (
        data(SBOM, lambda it: it["components"].pop(0)),
        {SBOM, PROVENANCE},
    ),
    "another subject": (
        data(PROVENANCE, lambda it: it["subject"][0]["digest"].update(sha256="0" * 64)),
        {PROVENANCE},
    ),
    "another toolchain": (
        data(MANIFEST, lambda it: it["toolchain"].update(name="el7")),
        {MANIFEST},
    ),
    "another version of the tool": (
        data(MANIFEST, lambda it: it.update(nokmem="9")),
        {SBOM, PROVENANCE},
    ),
    "a statement about no packages": (
        each(
            lambda place: (place / PACKAGES_PROVENANCE).write_text("{}"),
            data(MANIFEST, lambda it: it["files"].update({PACKAGES_PROVENANCE: {}})),
        ),
        {MANIFEST},
    ),
    "packages": (with_packages, set()),
    "packages without a statement": (
        each(
            with_packages,
            lambda place: (place / PACKAGES_PROVENANCE).unlink(),
            data(MANIFEST, lambda it: it["files"].pop(PACKAGES_PROVENANCE)),
        ),
        {PACKAGES_PROVENANCE, MANIFEST},
    ),
    "another package": (
        each(with_packages, lambda place: (place / RPM).write_text("another")),
        {PACKAGES_PROVENANCE},
    ),
}


@pytest.mark.parametrize("false", FALSE.values(), ids=FALSE.keys())
def test_what_is_refused_of_a_folder_that_looks_whole(
    false: tuple[Change, set[str]], plan: BuildPlan, tmp_path: Path
) -> None:
    change, expected = false
    place = write(tmp_path, plan)
    change(place)
    falsified.fit(place)
    assert refused(place) == expected


def test_the_id_that_patches_of_ones_own_give_is_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the binary prints it with --stamp, and as it is in the binary."""
    own = Path(small.series(tmp_path / "own", "cmd/main.go", "main()", "main( )"))
    built = pipeline.plan(dataclasses.replace(REQUEST, stamp=True), own)
    seen: list[Expected] = []

    def look(items: Iterable[tuple[Binary, Expected]], _: object) -> CheckReport:
        seen.extend(expected for _, expected in items)
        return CheckReport(())

    monkeypatch.setattr(checks, "prove", look)
    pipeline.verify(write(tmp_path, built))
    kubelet = built.components[1]
    assert re.fullmatch(r"v1\.20\.2\+nokmem\.1\.[0-9a-f]{8}", kubelet.build)
    assert [(one.build, one.prints) for one in seen if one.name == "kubelet"] == [
        (kubelet.build, kubelet.prints)
    ]


def test_a_plan_that_is_none_is_an_error_of_its_own(plan: BuildPlan, tmp_path: Path) -> None:
    place = write(tmp_path, plan)
    for change, said in (
        (data(PLAN, lambda it: it.update(schema=1)), "plan schema 1 is not"),
        (data(PLAN, lambda it: it.pop("toolchain")), "stands where BuildPlan should"),
        (data(PLAN, lambda it: it.update(epoch="1")), "'1' stands where int should"),
        (text(PLAN, "{", "["), "the plan cannot be read"),
    ):
        before = (place / PLAN).read_text()
        change(place)
        falsified.fit(place)
        with pytest.raises(ProofError, match=said) as caught:
            pipeline.verify(place)
        assert caught.value.exit_code == 9
        (place / PLAN).write_text(before)


def test_a_plan_reads_back_as_it_was_written(plan: BuildPlan) -> None:
    again = BuildPlan.from_json(plan.to_json())
    assert again.to_json() == plan.to_json() and again.components == plan.components

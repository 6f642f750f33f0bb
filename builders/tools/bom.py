"""Bills of materials, as CycloneDX has them, and the addresses of packages in them (purl)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any
from uuid import UUID, uuid5

from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    Property,
    XsUri,
)
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.bom_ref import BomRef
from cyclonedx.model.component import Component, ComponentScope, ComponentType, Pedigree
from cyclonedx.model.dependency import Dependency
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

#: What the serial numbers are made in, of what each bill says.
NAMESPACE = UUID("5d0ad3f6-5c2c-4c43-8f3c-0a8ffcd0b1e7")
NOBODY = UUID(int=0)


@dataclass(frozen=True)
class Part:
    """One thing in a bill, known there as `ref`. `kind` and `scope` are words of CycloneDX,
    `licence` is one of SPDX, `repository` says where its source is kept ("git+https://...@commit"),
    `ancestor` is what it was made of by others, `needs` are the refs of what it is made of here."""

    ref: str
    kind: str
    name: str
    version: str = ""
    purl: str = ""
    sha256: str = ""
    licence: str = ""
    scope: str = ""
    about: str = ""
    repository: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)
    ancestor: Part | None = None
    needs: tuple[str, ...] = ()


def purl(kind: str, path: str, version: str = "", inside: str = "", **qualifiers: str) -> str:
    """pkg:golang/github.com/owner/name@v1.0.0#inside, each part written as the kind wants it."""
    namespace, _, name = path.rpartition("/")
    return PackageURL(
        kind, namespace or None, name, version or None, qualifiers or None, inside or None
    ).to_string()


def debian(row: Mapping[str, Any]) -> str:
    """The address of a file of Debian's, as a plan has it."""
    suite = row["suite"].partition("-")[0]  # bullseye-security is of bullseye
    path = f"debian/{row['package']}"
    return purl("deb", path, row["version"], arch=row["architecture"], distro=suite)


def written(subject: Part, parts: Iterable[Part], epoch: int, tool: tuple[str, str]) -> str:
    """The bill of `subject` as sorted JSON: the same parts, epoch and tool (name and version) give
    the same bytes, a serial number of their own included."""
    parts = list(parts)
    name, version = tool
    tools = ToolRepository(
        components=[Component(name=name, version=version, type=ComponentType.APPLICATION)]
    )
    bom = Bom(
        serial_number=NOBODY,
        metadata=BomMetaData(
            timestamp=datetime.fromtimestamp(epoch, timezone.utc),
            tools=tools,
            component=_component(subject),
        ),
        components=[_component(part) for part in parts],
        dependencies=[
            Dependency(BomRef(part.ref), (Dependency(BomRef(need)) for need in part.needs))
            for part in (subject, *parts)
        ],
    )
    data: dict[str, Any] = _sorted(json.loads(JsonV1Dot6(bom).output_as_string()))
    data["serialNumber"] = uuid5(NAMESPACE, json.dumps(data, sort_keys=True)).urn
    return json.dumps(data, indent=2, sort_keys=True) + "\n"


def _component(part: Part) -> Component:
    ancestors = [_component(part.ancestor)] if part.ancestor else []
    return Component(
        bom_ref=part.ref,
        type=ComponentType(part.kind),
        name=part.name,
        version=part.version or None,
        purl=PackageURL.from_string(part.purl) if part.purl else None,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=part.sha256)] if part.sha256 else (),
        licenses=[DisjunctiveLicense(id=part.licence)] if part.licence else (),
        scope=ComponentScope(part.scope) if part.scope else None,
        description=part.about or None,
        external_references=[
            ExternalReference(type=ExternalReferenceType.VCS, url=XsUri(part.repository))
        ]
        if part.repository
        else (),
        properties=[Property(name=key, value=value) for key, value in part.properties.items()],
        pedigree=Pedigree(ancestors=ancestors) if ancestors else None,
    )


def _sorted(value: Any) -> Any:
    """The same JSON with each list in an order that no version of the library decides."""
    if isinstance(value, dict):
        return {key: _sorted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        rows = [_sorted(inner) for inner in value]
        return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))
    return value

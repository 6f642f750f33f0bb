"""A yum repository's metadata, by createrepo_c, as its Python package brings it along."""

from __future__ import annotations

from pathlib import Path

from builders.errors import PackageError, ProofError
from builders.tools import process

INDEX = "repodata/repomd.xml"
#: Tags of a package's signature header that hold one by a key: DSA, RSA, PGP, GPG; and what stands
#: before that header, in bytes.
SIGNATURES, LEAD = {267, 268, 1002, 1005}, 96


def index(folder: Path, epoch: int) -> dict[str, str]:
    """Write folder/repodata for all packages below it; what machine each is for, by its path.

    Each is read: an earlier index would be believed of whatever has the same size and time. The
    same packages give the same bytes. gzip and sha256, because yum of EL7 reads no others.
    """
    import createrepo_c

    program = Path(createrepo_c.__file__).parent / "data/bin/createrepo_c"
    argv = [
        *(str(program), "--quiet", "--no-database", "--checksum", "sha256"),
        *("--general-compress-type", "gz", "--compatibility"),
        *("--revision", str(epoch), "--set-timestamp-to-revision", "--workers", "2"),
        str(folder),
    ]
    result = process.run(argv)
    machines: dict[str, str] = {}
    if (folder / INDEX).exists():  # what it cannot read it leaves out, and does not say so
        reader = createrepo_c.RepositoryReader.from_path(str(folder))
        machines = {package.location_href: package.arch for package in reader.iter_packages()}
        unread = {str(path.relative_to(folder)) for path in folder.rglob("*.rpm")} - set(machines)
        if unread:
            raise PackageError(
                f"{', '.join(sorted(unread))}: no RPM, or a damaged one",
                place=str(folder),
                next_step="package it again",
            )
    if not result.ok:
        raise PackageError(
            "the repository's metadata could not be written",
            place=str(folder),
            next_step="its last lines follow",
            detail=result.tail,
        )
    return machines


def listed(folder: Path) -> dict[str, str]:
    """The sha256 of each file that the repository's index names, packages too, by its path;
    ProofError where that cannot be read."""
    import createrepo_c

    index = folder / INDEX
    try:
        records = createrepo_c.Repomd(str(index)).records
        packages = createrepo_c.RepositoryReader.from_path(str(folder)).iter_packages()
        return {
            **{record.location_href: record.checksum for record in records},
            **{package.location_href: package.pkgId for package in packages},
        }
    except (createrepo_c.CreaterepoCError, OSError) as error:
        raise ProofError(
            f"the index cannot be read: {error}",
            place=str(index),
            next_step="make the repository again",
        ) from error


def is_signed(package: Path) -> bool:
    """Whether an RPM has a signature; by whom, and whether it is good, is not asked."""
    with package.open("rb") as file:
        file.seek(LEAD + 8)
        count = int.from_bytes(file.read(4), "big")
        file.seek(LEAD + 16)
        rows = [file.read(16) for _ in range(min(count, 64))]
    return any(int.from_bytes(row[:4], "big") in SIGNATURES for row in rows)

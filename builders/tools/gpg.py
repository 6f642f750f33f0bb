"""Signatures by the user's own GnuPG: the key stays in its keyring, the passphrase in memory."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builders.errors import PackageError
from builders.tools import process

#: Where GnuPG may find its keyring and its agent.
PASSED = ("HOME", "GNUPGHOME", "GPG_TTY", "DISPLAY", "XDG_RUNTIME_DIR")
#: Otherwise the agent asks, on the terminal or as it is set up to.
PASSPHRASE = "NOKMEM_SIGNING_PASSPHRASE"  # noqa: S105 -- the name of a variable
#: Of gpg's algorithms, RSA alone is known to EL7's rpm and to its GnuPG 2.0.22, but for old DSA.
RSA = "1"
MINUTE = 60


@dataclass(frozen=True)
class Key:
    """A secret key that may sign: `fingerprint`, 40 hexadecimal digits, and its first user id."""

    fingerprint: str
    owner: str


class Signer:
    """Signs with one key of the user's keyring."""

    def __init__(self, word: str, environment: Mapping[str, str]) -> None:
        """`word` is what gpg finds a key by; PackageError where that is no key fit for EL7, or one
        that cannot sign now."""
        self._environment = {n: environment[n] for n in PASSED if n in environment}
        self._passphrase = environment.get(PASSPHRASE)
        self._gpg = process.require("gpg", "to sign")
        self.key = self._find(word)
        with tempfile.TemporaryDirectory(prefix="nokmem-trial-") as folder:
            trial = Path(folder) / "a trial signature"
            trial.touch()
            self.detach(trial)

    def _find(self, word: str) -> Key:
        argv = [self._gpg, "--batch", "--with-colons", "--list-secret-keys", "--", word]
        result, text = process.capture(argv, environment=self._environment)
        rows = [line.split(":") for line in text.splitlines()]
        keys = [row for row in rows if row[0] == "sec"]
        if not result.ok or len(keys) != 1:
            count = f"{len(keys)} keys" if keys else "no secret key"
            raise self._unfit(f"{count} in the keyring for {word!r}", "gpg --list-secret-keys")
        row = keys[0]
        fingerprint = next(each[9] for each in rows if each[0] == "fpr")
        owner = next((each[9] for each in rows if each[0] == "uid"), "")
        problems = {
            "it is expired": row[1] == "e" or (row[6].isdigit() and int(row[6]) < time.time()),
            "it is revoked": row[1] == "r",
            "it is disabled": row[1] in ("d", "i") or "D" in row[11],
            "it is not RSA, which is all that rpm and GnuPG of EL7 can check": row[3] != RSA,
            "its primary key may not sign, and rpm of EL7 knows no other": "s" not in row[11],
        }
        for problem, there in problems.items():
            if there:
                raise self._unfit(f"the key {fingerprint} cannot be used: {problem}", "--sign")
        return Key(fingerprint, owner)

    @staticmethod
    def _unfit(fact: str, place: str) -> PackageError:
        return PackageError(
            fact,
            place=place,
            next_step="name an RSA key that may sign, by its fingerprint: gpg --full-generate-key; "
            "GNUPGHOME names another keyring",
        )

    def detach(self, path: Path) -> Path:
        """Write an armored signature of a file beside it."""
        made = path.with_name(f"{path.name}.asc")
        with self._asking() as words:
            argv = [
                *(self._gpg, *words, "--yes", "--armor", "--digest-algo", "SHA256"),
                *("--local-user", f"{self.key.fingerprint}!", "--output", str(made)),
                *("--detach-sign", str(path)),
            ]
            self._run(argv, path.name)
        return made

    def sign_rpms(self, paths: Sequence[Path]) -> None:
        """Sign the headers of packages in place, and see rpm accept each with the public key."""
        rpmsign = process.require("rpmsign", "to sign packages")
        with self._asking() as words:
            argv = [
                *(rpmsign, "--define", f"__gpg {self._gpg}"),
                *("--define", f"_gpg_name {self.key.fingerprint}!"),
                *("--define", "_gpg_digest_algo sha256"),
                *("--define", f"_gpg_sign_cmd_extra_args {' '.join(words)}"),
                *("--addsign", *map(str, paths)),
            ]
            self._run(argv, ", ".join(path.name for path in paths))
        self.check_rpms(paths)

    def check_rpms(self, paths: Sequence[Path]) -> None:
        """See that rpm finds a signature of this key on each package; PackageError names others."""
        rpmkeys = process.require("rpmkeys", "to check signed packages")
        with tempfile.TemporaryDirectory(prefix="nokmem-keys-") as folder:
            public = Path(folder) / "key"
            public.write_bytes(self.public())
            database = ("--dbpath", f"{folder}/db")
            self._run([rpmkeys, *database, "--import", str(public)], "the public key")
            argv = [rpmkeys, *database, "--checksig", "--verbose", *map(str, paths)]
            result, text = process.capture(argv, timeout=10 * MINUTE)
        names = {f"{path}:": path.name for path in paths}
        signed, current = set(), ""
        for line in text.splitlines():
            current = names.get(line, current)
            if "Signature, key ID" in line and line.endswith(": OK"):
                signed.add(current)
        others = sorted(set(names.values()) - signed)
        if not result.ok or others:
            raise PackageError(
                f"{', '.join(others) or 'a package'}: not signed by {self.key.fingerprint}",
                place="rpmkeys --checksig",
                next_step="package it again with --sign",
                detail=result.tail,
            )

    def public(self) -> bytes:
        """The public key, armored."""
        return public(self.key.fingerprint, self._environment)

    @contextmanager
    def _asking(self) -> Iterator[list[str]]:
        """The words by which gpg gets the passphrase; no file and no argument ever holds it."""
        if self._passphrase is None:
            yield ["--batch"]
            return
        descriptor = os.memfd_create("passphrase")
        try:
            os.write(descriptor, self._passphrase.encode())
            file = f"/proc/{os.getpid()}/fd/{descriptor}"
            yield ["--batch", "--pinentry-mode", "loopback", "--passphrase-file", file]
        finally:
            os.close(descriptor)

    def _run(self, argv: Sequence[str], what: str) -> None:
        result = process.run(argv, environment=self._environment, timeout=10 * MINUTE)
        if not result.ok:
            raise PackageError(
                f"{what}: not signed by {self.key.fingerprint}",
                place=Path(argv[0]).name,
                next_step=f"give the right passphrase in {PASSPHRASE}, or unlock the key in its "
                "agent",
                detail=result.tail,
            )


def public(fingerprint: str, environment: Mapping[str, str]) -> bytes:
    """A public key of the user's keyring, armored."""
    argv = [
        *(process.require("gpg", "to read keys"), "--batch", "--armor"),
        *("--export-options", "export-minimal", "--export", fingerprint),
    ]
    with tempfile.TemporaryFile() as file:
        passed = {n: environment[n] for n in PASSED if n in environment}
        result = process.run(argv, environment=passed, stdout=file)
        file.seek(0)
        text = file.read()
    if not result.ok or not text:
        raise PackageError(
            f"the public key {fingerprint} is not in the keyring",
            place="gpg --list-keys",
            next_step="gpg --import it; GNUPGHOME names another keyring",
        )
    return text


def verified(path: Path, keys: Path) -> str:
    """Who signed a file, by its .asc and a file of public keys: the fingerprint.

    PackageError where no key of the file did, or where one that did may not any more.
    """
    gpgv, gpg = process.require("gpgv", "to check"), process.require("gpg", "to read keys")
    with tempfile.TemporaryDirectory(prefix="nokmem-gpgv-") as folder:
        ring = Path(folder) / "ring.gpg"
        read, _ = process.capture(
            [gpg, "--batch", "--homedir", folder, "--output", str(ring), "--dearmor", str(keys)]
        )
        if not read.ok:
            shutil.copyfile(keys, ring)
        argv = [
            *(gpgv, "--homedir", folder, "--keyring", str(ring), "--status-fd", "1"),
            *(f"{path}.asc", str(path)),
        ]
        result, text = process.capture(argv)
    signers = [
        line.split()[-1] for line in text.splitlines() if line.startswith("[GNUPG:] VALIDSIG ")
    ]
    if not result.ok or not signers:
        raise PackageError(
            f"{path.name} is not signed by a key of {keys.name}",
            place=f"{path}.asc",
            next_step="take the signer's public key from where you trust it, and the files again",
            detail=result.tail,
        )
    return signers[0]

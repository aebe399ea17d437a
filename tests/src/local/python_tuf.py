"""A TUF repository and a TUF client by python-tuf, for the tests.

    logkey NAME                      a log's key: private key, verifier key, PEM (JSON)
    publish REPOSITORY               the next version, as standard input says (JSON):
                                       targets, delegated: texts by name
                                       rotate: whether the root, and the roles that are signed
                                               every day, have other keys from now on
    verify DIRECTORY                 whether stored metadata is signed, from root.json on
    read ROOT URL DIRECTORY NAME..   follows a repository; prints the targets (JSON)

Keys are of both kinds that Sigstore has, and beside the repository, so that the next version is by
the same people.
"""

import base64
import hashlib
import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    MetaFile,
    Metadata,
    Role,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer
from tuf.ngclient import Updater

FAR = datetime(2099, 1, 1, tzinfo=timezone.utc)

# Who signs what; the root by both of its keys.
SIGNERS = {
    "root": ["root-a", "root-b"],
    "timestamp": ["online-a"],
    "snapshot": ["online-b"],
    "targets": ["targets"],
    "log-keys": ["log-keys"],
}
ED25519 = {"root-b", "online-a", "log-keys"}
ROTATED = ["root-a", "root-b", "online-a", "online-b"]

# What the delegated role may list.
DELEGATED_PATHS = "keys/*"


class Keys:
    """Private keys, one file each."""

    def __init__(self, directory):
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def signer(self, name):
        file = self.directory / f"{name}.pem"
        if not file.exists():
            self.renew(name)
        return CryptoSigner(load_pem_private_key(file.read_bytes(), None))

    def renew(self, name):
        made = CryptoSigner.generate_ed25519() if name in ED25519 else CryptoSigner.generate_ecdsa()
        (self.directory / f"{name}.pem").write_bytes(made.private_bytes)

    def of(self, role):
        return [self.signer(name) for name in SIGNERS[role]]


class Repository:
    def __init__(self, directory):
        self.directory = directory
        self.keys = Keys(directory.parent / f"{directory.name}-keys")
        (directory / "targets").mkdir(parents=True, exist_ok=True)

    def newest(self, role):
        """The version that was published last; 0 if none was."""
        versions = [int(file.name.split(".")[0]) for file in self.directory.glob(f"*.{role}.json")]
        return max(versions, default=0)

    def publish(self, wish):
        if self.newest("root") == 0 or wish.get("rotate"):
            self.publish_root()
        version = self.newest("snapshot") + 1
        delegated = Targets(version, expires=FAR)
        delegated.targets = self.list(wish["delegated"])
        targets = Targets(version, expires=FAR)
        targets.targets = self.list(wish["targets"])
        [signer] = self.keys.of("log-keys")
        role = DelegatedRole("log-keys", [signer.public_key.keyid], 1, False, [DELEGATED_PATHS])
        targets.delegations = Delegations({signer.public_key.keyid: signer.public_key}, {role.name: role})
        snapshot = Snapshot(version, expires=FAR)
        for name, signed in ("targets", targets), ("log-keys", delegated):
            snapshot.meta[f"{name}.json"] = self.write(name, signed, version)
        timestamp = Timestamp(version, expires=FAR)
        timestamp.snapshot_meta = self.write("snapshot", snapshot, version)
        self.write("timestamp", timestamp, version)

    def publish_root(self):
        before = self.keys.of("root")
        version = self.newest("root") + 1
        if version > 1:
            for name in ROTATED:
                self.keys.renew(name)
        root = Root(version, expires=FAR, consistent_snapshot=True)
        for role in "root", "timestamp", "snapshot", "targets":
            root.roles[role] = Role([], 2 if role == "root" else 1)
            for signer in self.keys.of(role):
                root.add_key(signer.public_key, role)
        metadata = Metadata(root)
        signers = {signer.public_key.keyid: signer for signer in self.keys.of("root") + before}
        for signer in signers.values():
            metadata.sign(signer, append=True)
        metadata.to_file(str(self.directory / f"{version}.root.json"), JSONSerializer())

    def list(self, targets):
        listed = {}
        for name, text in targets.items():
            data = text.encode()
            listed[name] = TargetFile.from_data(name, data, ["sha256", "sha512"])
            folder, _, file = name.rpartition("/")
            for digest in listed[name].hashes.values():
                path = self.directory / "targets" / folder / f"{digest}.{file}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        return listed

    def write(self, role, signed, version):
        """Signs and writes a role; says how it is listed above."""
        metadata = Metadata(signed)
        for signer in self.keys.of(role):
            metadata.sign(signer, append=True)
        data = metadata.to_bytes(JSONSerializer())
        name = "timestamp.json" if role == "timestamp" else f"{version}.{role}.json"
        # A reader sees the old one or the new one.
        new = self.directory / f".{name}"
        new.write_bytes(data)
        new.replace(self.directory / name)
        return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})


def log_key(name):
    """As logs of the Go ecosystem have them."""
    key = Ed25519PrivateKey.generate()
    algorithm = b"\x01"
    seed = algorithm + key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    public = algorithm + key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    ident = hashlib.sha256(name.encode() + b"\n" + public).digest()[:4].hex()
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {
        "private": f"PRIVATE+KEY+{name}+{ident}+{base64.b64encode(seed).decode()}",
        "verifier": f"{name}+{ident}+{base64.b64encode(public).decode()}",
        "pem": pem.decode(),
    }


def verify(directory):
    root = Metadata[Root].from_file(str(directory / "root.json"))
    root.verify_delegate("root", root)
    for role in "timestamp", "snapshot", "targets":
        root.verify_delegate(role, Metadata.from_file(str(directory / f"{role}.json")))
    targets = Metadata[Targets].from_file(str(directory / "targets.json"))
    for name in targets.signed.delegations.roles if targets.signed.delegations else []:
        file = directory / f"{quote(name, safe='')}.json"
        targets.verify_delegate(name, Metadata.from_file(str(file)))


def read(root, url, directory, names):
    metadata, targets = directory / "metadata", directory / "targets"
    metadata.mkdir(parents=True, exist_ok=True)
    targets.mkdir(parents=True, exist_ok=True)
    updater = Updater(str(metadata), url, str(targets), f"{url}targets/", bootstrap=root.read_bytes())
    updater.refresh()
    texts = {}
    for name in names:
        info = updater.get_targetinfo(name)
        texts[name] = Path(updater.download_target(info)).read_text() if info else None
    return texts


def main(command, *arguments):
    if command == "logkey":
        print(json.dumps(log_key(*arguments)))
    elif command == "publish":
        Repository(Path(arguments[0])).publish(json.load(sys.stdin))
    elif command == "verify":
        verify(Path(arguments[0]))
    elif command == "read":
        root, url, directory, *names = arguments
        print(json.dumps(read(Path(root), url, Path(directory), names)))
    else:
        sys.exit(f"no such command: {command}")


main(*sys.argv[1:])

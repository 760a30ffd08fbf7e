"""A certificate authority for tests."""

import datetime
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from trainyard_trainer.contract.env import Role, identity


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """Signs certificates for one job."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(self._key, "authority", x509.BasicConstraints(True, 0), True)

    def _sign(
        self,
        key: ec.EllipticCurvePrivateKey,
        name: str,
        extension: x509.ExtensionType,
        critical: bool,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name("authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(extension, critical)
            .sign(self._key, hashes.SHA256())
        )

    def issue(
        self,
        folder: Path,
        role: Role,
        namespace: str = "test",
        job: str = "job",
        member: str = "",
    ) -> Path:
        """Write ca.crt, tls.crt and tls.key for `role` into `folder`."""
        folder.mkdir(exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        uri = x509.UniformResourceIdentifier(identity(namespace, job, role, member))
        leaf = self._sign(key, role, x509.SubjectAlternativeName([uri]), False)
        pem = serialization.Encoding.PEM
        private = key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / "ca.crt").write_bytes(self.certificate.public_bytes(pem))
        (folder / "tls.crt").write_bytes(leaf.public_bytes(pem))
        (folder / "tls.key").write_bytes(private)
        return folder


def client(folder: Path) -> ssl.SSLContext:
    """A client context with the certificate in `folder`, which trusts its authority."""
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    context.check_hostname = False
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    return context

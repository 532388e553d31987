"""A certificate for a person: laid out as `linkerd identity` and `openssl x509 -text` do, or as data."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

_NAMES = {
    ExtensionOID.BASIC_CONSTRAINTS: "Basic Constraints",
    ExtensionOID.KEY_USAGE: "Key Usage",
    ExtensionOID.EXTENDED_KEY_USAGE: "Extended Key Usage",
    ExtensionOID.SUBJECT_KEY_IDENTIFIER: "Subject Key Identifier",
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER: "Authority Key Identifier",
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME: "Subject Alternative Name",
}

_PURPOSES = {
    ExtendedKeyUsageOID.SERVER_AUTH: "TLS Web Server Authentication",
    ExtendedKeyUsageOID.CLIENT_AUTH: "TLS Web Client Authentication",
}

_USAGES = {
    "digital_signature": "Digital Signature",
    "content_commitment": "Non Repudiation",
    "key_encipherment": "Key Encipherment",
    "data_encipherment": "Data Encipherment",
    "key_agreement": "Key Agreement",
    "key_cert_sign": "Certificate Sign",
    "crl_sign": "CRL Sign",
}


def as_text(certificate: x509.Certificate) -> str:
    """All of it, indented; ends with a newline."""
    return "".join(f"{line}\n" for line in _lines(certificate))


def as_data(certificate: x509.Certificate) -> dict[str, Any]:
    """What scripts look for."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {
        "serial": f"{certificate.serial_number:032x}",
        "issuer": certificate.issuer.rfc4514_string(),
        "notBefore": certificate.not_valid_before_utc.isoformat().replace("+00:00", "Z"),
        "notAfter": certificate.not_valid_after_utc.isoformat().replace("+00:00", "Z"),
        "uris": names.get_values_for_type(x509.UniformResourceIdentifier),
        "pem": certificate.public_bytes(serialization.Encoding.PEM).decode(),
    }


def _lines(certificate: x509.Certificate) -> Iterator[str]:
    hashing = certificate.signature_hash_algorithm
    algorithm = _key_kind(certificate) + (f"-{hashing.name.upper()}" if hashing else "")
    yield "Certificate:"
    yield "    Data:"
    yield f"        Version: {certificate.version.value + 1} (0x{certificate.version.value:x})"
    yield f"        Serial Number: {certificate.serial_number:032x}"
    yield f"    Signature Algorithm: {algorithm}"
    yield f"        Issuer: {certificate.issuer.rfc4514_string()}"
    yield "        Validity"
    yield f"            Not Before: {_when(certificate.not_valid_before_utc)}"
    yield f"            Not After : {_when(certificate.not_valid_after_utc)}"
    yield f"        Subject: {certificate.subject.rfc4514_string()}"
    yield "        Subject Public Key Info:"
    yield from (f"            {line}" for line in _key(certificate))
    yield "        X509v3 extensions:"
    for extension in certificate.extensions:
        name = _NAMES.get(extension.oid, extension.oid.dotted_string)
        yield f"            X509v3 {name}:{' critical' if extension.critical else ''}"
        yield f"                {_extension(extension.value)}"
    yield ""
    yield f"    Signature Algorithm: {algorithm}"
    signature = _hex(certificate.signature).split(":")
    for start in range(0, len(signature), 18):
        yield f"         {':'.join(signature[start : start + 18])}{':' if start + 18 < len(signature) else ''}"
    yield ""


def _when(time: datetime) -> str:
    return f"{time:%b %d %H:%M:%S %Y} UTC"


def _key_kind(certificate: x509.Certificate) -> str:
    oid = certificate.signature_algorithm_oid.dotted_string
    return "ECDSA" if oid.startswith("1.2.840.10045.4") else "RSA" if oid.startswith("1.2.840.113549.1.1") else oid


def _key(certificate: x509.Certificate) -> Iterator[str]:
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        yield "Public Key Algorithm: ECDSA"
        yield f"    Public-Key: ({key.key_size} bit)"
        yield f"    Curve: {key.curve.name}"
    elif isinstance(key, rsa.RSAPublicKey):
        yield "Public Key Algorithm: RSA"
        yield f"    Public-Key: ({key.key_size} bit)"
    else:
        yield f"Public Key Algorithm: {certificate.public_key_algorithm_oid.dotted_string}"


def _extension(value: x509.ExtensionType) -> str:
    match value:
        case x509.BasicConstraints():
            length = "" if value.path_length is None else f", pathlen:{value.path_length}"
            return f"CA:{str(value.ca).upper()}{length}"
        case x509.KeyUsage():
            return ", ".join(text for name, text in _USAGES.items() if getattr(value, name))
        case x509.ExtendedKeyUsage():
            return ", ".join(_PURPOSES.get(each, each.dotted_string) for each in value)
        case x509.SubjectKeyIdentifier():
            return _hex(value.digest)
        case x509.AuthorityKeyIdentifier():
            return f"keyid:{_hex(value.key_identifier or b'')}"
        case x509.SubjectAlternativeName():
            return ", ".join(_name(each) for each in value)
        case x509.UnrecognizedExtension():
            return _hex(value.value)
        case _:
            return _hex(value.public_bytes())


def _name(name: x509.GeneralName) -> str:
    kind = {x509.UniformResourceIdentifier: "URI", x509.DNSName: "DNS", x509.IPAddress: "IP Address"}.get(type(name))
    return f"{kind or type(name).__name__}:{name.value}"


def _hex(data: bytes) -> str:
    return data.hex(":").upper()

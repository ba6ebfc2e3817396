"""Certificates of a test's own."""

import subprocess


class Authority:
    """A certificate authority of one test, by the openssl command."""

    def __init__(self, folder):
        self._folder = folder
        self.certificate = folder / "ca.pem"
        self._key = folder / "ca.key"
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                      "-keyout", self._key, "-out", self.certificate, "-days", 2, "-subj", "/CN=test authority")

    def _openssl(self, *arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)

    def sign(self, name, names, days=2):
        """Certificate and key for `names` ("DNS:localhost,IP:127.0.0.1"); days < 0: expired."""
        key, request, certificate, extensions = (
            self._folder / f"{name}.{suffix}" for suffix in ("key", "csr", "pem", "ext")
        )
        extensions.write_text(f"subjectAltName={names}\n")
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key,
                      "-out", request, "-subj", f"/CN={name}")
        self._openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key,
                      "-CAcreateserial", "-out", certificate, "-days", days, "-extfile", extensions)
        return certificate, key

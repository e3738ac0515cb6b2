"""Probes TLS servers with Python's ssl: a JSON list of probes in, a JSON list of outcomes out."""

import json
import socket
import ssl
import sys


def outcome(probe):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # Weak keys are the server's to refuse.
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    version = ssl.TLSVersion.TLSv1_2 if probe["version"] == "TLSv1.2" else ssl.TLSVersion.TLSv1_3
    context.minimum_version = context.maximum_version = version
    if probe["cert"]:
        context.load_cert_chain(probe["cert"], probe["key"])
    with socket.create_connection(("127.0.0.1", probe["port"]), timeout=10) as tcp:
        try:
            with context.wrap_socket(tcp, server_hostname=probe["sni"]) as tls:
                head = "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % probe["sni"]
                tls.sendall(head.encode())
                answer = b""
                while chunk := tls.recv(65536):
                    answer += chunk
        except (ssl.SSLError, ConnectionError):
            return "refused"
    return answer.decode()


json.dump([outcome(probe) for probe in json.load(sys.stdin)], sys.stdout)

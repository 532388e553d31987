"""The server behind the proxies: nginx answering every GET with the same bytes.

It shares a core with the load generator on a machine of two, so it has to cost little: small answers come from its
configuration, larger ones from a file that it keeps open.
"""

from pathlib import Path

from bench.nginx import http_section, main_section

IN_CONFIGURATION_BYTES = 2048
"""Up to here an answer fits into a parameter of nginx's configuration, which ends at 4096."""


def body(size_bytes: int) -> bytes:
    """What it answers: text, the same in every run."""
    line = b"the quick brown fox jumps over the lazy dog, and the mesh saw every hop of it\n"
    return (line * (size_bytes // len(line) + 1))[:size_bytes]


def configuration(listen: int, size_bytes: int, directory: Path) -> str:
    """Its configuration file; the answer is written to `directory` where it is too long for that."""
    if size_bytes <= IN_CONFIGURATION_BYTES:
        answer = f'default_type text/plain; return 200 "{body(size_bytes).decode()}";'
    else:
        (directory / "answer").write_bytes(body(size_bytes))
        answer = f"default_type text/plain; root {directory}; try_files /answer =404;"
    server = f"""\
  sendfile on;
  open_file_cache max=8;
  server {{
    listen 127.0.0.1:{listen} backlog=1024;
    location / {{ {answer} }}
  }}"""
    return main_section() + http_section(server)

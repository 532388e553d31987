"""nginx, a real one, at a port of 127.0.0.1."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.peers import path
from tests.support.ports import accepts, free_port
from tests.support.processes import running

_CONFIGURATION = """
daemon off;
master_process off;
pid {directory}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{ root {directory}/files; }}
        location /moved {{ return 302 /elsewhere; }}
        location /busy {{ return 503; }}
        location /host {{
            if ($http_host = web.example:81) {{ return 204; }}
            return 421;
        }}
    }}
}}
"""


class Nginx:
    """One that serves what lies in `files`. Of its own it answers /busy with 503, /moved with 302, and /host with
    204 to those who ask web.example:81, else with 421."""

    def __init__(self, directory: Path) -> None:
        self.port, self.files, self._directory = free_port(), directory / "files", directory
        self.files.mkdir()

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        configuration = self._directory / "nginx.conf"
        configuration.write_text(_CONFIGURATION.format(directory=self._directory, port=self.port))
        argv = [path("nginx"), "-p", str(self._directory), "-c", str(configuration)]
        log = self._directory / "nginx.log"
        with running(argv, log, lambda: accepts(self.port)) as process:
            yield process

"""nginx's configuration: what every one of them begins with, so that it runs in a directory of its own, as any user."""

TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
CONNECTIONS = 16384
"""More than any scenario opens."""


def main_section() -> str:
    """The lines before `http`: one worker in the foreground."""
    return f"""\
worker_processes 1;
worker_rlimit_nofile {CONNECTIONS};
daemon off;
pid nginx.pid;
error_log stderr error;
events {{ worker_connections {CONNECTIONS}; }}
"""


def http_section(server: str) -> str:
    """An `http` section around `server`: no log of requests, connections kept for as long as the run lasts."""
    paths = "\n".join(f"  {name}_temp_path {name};" for name in TEMPORARY)
    return f"""\
http {{
{paths}
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
{server}
}}
"""

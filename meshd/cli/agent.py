"""`meshd agent`: the host's agent, or the one that `meshd run` starts for its user."""

import logging
from pathlib import Path

import click
import uvloop

from meshd.agent.settings import SETTINGS_FILE
from meshd.api.logs import log_to_stderr
from meshd.api.problems import Misuse
from meshd.cli.durations import Duration
from meshd.cli.logs import log_level_option


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=SETTINGS_FILE,
    show_default=True,
    help="The settings file.",
)
@click.option("--check", "only_check", is_flag=True, help="Say all that is wrong with settings and documents, and end.")
@click.option("--embedded", is_flag=True, help="No settings: a CA of its own, for the workloads of this user alone.")
@click.option("--state-dir", type=click.Path(path_type=Path), help="With --embedded: where socket, CA and lock are.")
@click.option(
    "--linger",
    type=Duration(),
    default="30s",
    show_default=True,
    help="With --embedded: end this long after the last workload has gone.",
)
@log_level_option
def command(
    config: Path, only_check: bool, embedded: bool, state_dir: Path | None, linger: float, log_level: str
) -> None:
    """Run the agent of this host.

    It ends in order on SIGTERM, and reads settings and documents again on SIGHUP.
    """
    if embedded != (state_dir is not None):
        raise Misuse("--embedded and --state-dir DIR go together")
    if embedded and only_check:
        raise Misuse("--check is about a settings file, and --embedded has none")
    if state_dir is not None:
        _run_embedded(state_dir.absolute(), linger, log_level)
    else:
        _run_host(config.absolute(), only_check, log_level)


# Each kind is imported when it is run: the embedded agent needs no HTTP client, and `meshd run` waits for it to start.


def _run_embedded(directory: Path, linger_s: float, log_level: str) -> None:
    from meshd.agent.embedded import run_embedded  # noqa: PLC0415

    log_to_stderr(log_level, "meshd")
    uvloop.run(run_embedded(directory, linger_s))


def _run_host(config: Path, only_check: bool, log_level: str) -> None:
    from meshd.agent.host import check, run_host  # noqa: PLC0415

    if only_check:
        logging.disable()  # what a running agent would log is what the check finds, and says
        checked = check(config)
        click.echo(f"{config}: good: {checked.documents} documents, trust domain {checked.settings.trust_domain}")
    else:
        log_to_stderr(log_level, "meshd")
        uvloop.run(run_host(config))

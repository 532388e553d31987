"""The file back end against a real directory: every way in which people and programs change files."""

import logging
import os
import resource
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
from inotify_simple import INotify

from discovery.chain import Chain, Named
from discovery.file import FileSource
from discovery.names import Authority
from discovery.source import Answer
from meshd.api.endpoints import EndpointSet
from tests.support.aio import run
from tests.support.waiting import eventually


def service(port: int, name: str = "api") -> str:
    return (
        f"apiVersion: meshd.io/v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{port: 80, endpoints: [{{address: 192.0.2.5, port: {port}, workload: api, zone: a}}]}}\n"
    )


class Watched:
    """A source that is followed, and what a watch of `api` was told last."""

    def __init__(self, source: FileSource) -> None:
        self.source = source
        self.answers: list[EndpointSet | None] = []
        self.close = Chain([Named("file", source)]).watch(Authority.parse("api", "default"), self.answers.append)

    @property
    def ports(self) -> list[int] | None:
        found = self.answers[-1]
        return None if found is None else [endpoint.port for endpoint in found.endpoints]

    async def sees(self, ports: list[int] | None) -> None:
        await eventually(lambda: self.ports == ports, f"{ports} (now {self.ports})")

    async def finds(self, said: str) -> None:
        await eventually(lambda: any(said in str(each) for each in self.source.findings), f"a finding: {said}")


@asynccontextmanager
async def followed(path: Path, clock: Callable[[], float] = time.time) -> AsyncIterator[Watched]:
    source = FileSource(path, "mesh.local", clock=clock)
    source.load()
    source.start()
    try:
        yield Watched(source)
    finally:
        await source.close()


def test_a_file_that_comes_between_the_first_reading_and_the_watch_is_seen(tmp_path: Path) -> None:
    looks = 0

    def clock() -> float:
        nonlocal looks
        looks += 1
        if looks == 2:  # the first is as it is made, the second when the directory has been listed
            (tmp_path / "api.yaml").write_text(service(1))
        return time.time()

    async def main() -> None:
        async with followed(tmp_path, clock) as watched:
            await watched.sees([1])

    run(main())


def test_what_an_endpoint_is(tmp_path: Path) -> None:
    (tmp_path / "api.yaml").write_text(service(8080))
    source = FileSource(tmp_path, "prod.example")
    source.load()
    answers: list[Answer] = []
    for authority in ("api", "api:80", "api.default.svc", "192.0.2.5:8080"):
        source.watch(Authority.parse(authority, "default"), answers.append)
    for found in answers:
        assert isinstance(found, EndpointSet)
        assert str(found.service) == "api.default:80"
        (endpoint,) = found.endpoints
        assert endpoint.identity == "spiffe://prod.example/ns/default/sa/api"
        assert (endpoint.address, endpoint.port, endpoint.inbound_port, endpoint.zone) == ("192.0.2.5", 8080, 4143, "a")
    answers.clear()
    for authority in ("api:8080", "api.other", "192.0.2.5", "192.0.2.5:80", "web"):
        source.watch(Authority.parse(authority, "default"), answers.append)
    assert answers == [None] * 5


def write_in_place(file: Path, text: str) -> None:
    file.write_text(text)


def rename_over(file: Path, text: str) -> None:
    beside = file.with_name(f".{file.name}.tmp")
    beside.write_text(text)
    beside.rename(file)


def move_aside_and_write(file: Path, text: str) -> None:
    if file.exists():
        file.rename(file.with_name(f"{file.name}~"))
    file.write_text(text)


def swap_link(file: Path, text: str) -> None:
    """As a Kubernetes ConfigMap is mounted: the file is a link into a directory that is itself a link."""
    version = len(list(file.parent.glob("..v*")))
    data = file.parent / f"..v{version}"
    data.mkdir()
    (data / file.name).write_text(text)
    (file.parent / "..data.new").symlink_to(data.name)
    (file.parent / "..data.new").rename(file.parent / "..data")
    if not file.is_symlink():
        file.symlink_to(Path("..data", file.name))


@pytest.mark.parametrize("write", [write_in_place, rename_over, move_aside_and_write, swap_link])
def test_a_file_may_be_written_in_any_way(tmp_path: Path, write: Callable[[Path, str], None]) -> None:
    async def main() -> None:
        async with followed(tmp_path) as watched:
            assert watched.ports is None
            write(tmp_path / "api.yaml", service(8080))
            await watched.sees([8080])
            write(tmp_path / "api.yaml", service(8081))
            await watched.sees([8081])
            (tmp_path / "api.yaml").unlink()
            await watched.sees(None)
            assert watched.source.health().healthy

    run(main())


def test_a_bad_file_leaves_its_last_good_content(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with followed(tmp_path) as watched:
            (tmp_path / "api.yaml").write_text(service(8080))
            await watched.sees([8080])
            (tmp_path / "api.yaml").write_text(service(8080).replace("port: 80,", "port: eighty,"))
            (tmp_path / "web.yaml").write_text(service(1, name="web"))
            await watched.finds("api.yaml: document 1 (Service api): spec.port: expected `int`, got `str`")
            assert watched.ports == [8080]
            assert not watched.source.health().healthy
            assert "api.yaml" in watched.source.health().message
            assert len(watched.source.documents) == 2
            (tmp_path / "api.yaml").write_text(service(8082))
            await watched.sees([8082])
            assert watched.source.health().healthy

    with caplog.at_level(logging.INFO):
        run(main())
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_two_files_with_one_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with followed(tmp_path) as watched:
            (tmp_path / "b.yaml").write_text(service(8080))
            await watched.sees([8080])
            (tmp_path / "a.yaml").write_text(service(9090))
            await watched.finds(f"{tmp_path}/a.yaml: Service default/api is also in {tmp_path}/b.yaml")
            assert watched.ports == [8080]
            (tmp_path / "b.yaml").unlink()
            await watched.sees([9090])

    run(main())


def test_a_directory_that_comes_goes_and_comes_again(tmp_path: Path) -> None:
    directory = tmp_path / "etc" / "meshd" / "conf.d"

    async def main() -> None:
        async with followed(directory) as watched:
            assert "does not exist" in watched.source.health().message
            directory.mkdir(parents=True)
            (directory / "api.yaml").write_text(service(8080))
            await watched.sees([8080])
            shutil.rmtree(directory.parent)
            await watched.finds("does not exist")
            found = watched.answers[-1]
            assert found is not None
            assert found.stale
            assert watched.ports == [8080]
            directory.mkdir(parents=True)
            (directory / "api.yaml").write_text(service(8081))
            await watched.sees([8081])
            assert watched.source.health().healthy

    run(main())


def test_a_directory_that_is_replaced_by_renaming(tmp_path: Path) -> None:
    directory, fresh = tmp_path / "conf.d", tmp_path / "fresh"
    directory.mkdir()
    (directory / "api.yaml").write_text(service(8080))

    async def main() -> None:
        async with followed(directory) as watched:
            fresh.mkdir()
            (fresh / "api.yaml").write_text(service(8081))
            directory.rename(tmp_path / "old")
            fresh.rename(directory)
            await watched.sees([8081])
            (tmp_path / "old" / "api.yaml").write_text(service(1))
            (directory / "api.yaml").write_text(service(8082))
            await watched.sees([8082])

    run(main())


def test_a_directory_that_is_replaced_while_it_is_read_loses_nothing(tmp_path: Path) -> None:
    conf, away = tmp_path / "conf.d", tmp_path / "away"
    conf.mkdir()
    for number in range(20):
        (conf / f"{number}.yaml").write_text(service(1, f"s{number}"))
    source, seen, ended = FileSource(conf, "mesh.local"), set[int](), Event()
    source.load()
    source.subscribe(lambda: seen.add(len(source.documents)))

    def replace() -> None:
        while not ended.is_set():
            conf.rename(away)
            away.rename(conf)

    thread = Thread(target=replace)
    thread.start()
    try:
        for _ in range(1000):
            source.load()
    finally:
        ended.set()
        thread.join()
    assert seen == {20}


def test_one_file_instead_of_a_directory(tmp_path: Path) -> None:
    file = tmp_path / "mesh.yaml"

    async def main() -> None:
        async with followed(file) as watched:
            rename_over(file, service(8080))
            await watched.sees([8080])
            write_in_place(file, service(8081))
            await watched.sees([8081])

    run(main())


def test_a_file_that_somebody_writes_anew_is_not_empty_meanwhile(tmp_path: Path) -> None:
    """Whatever has it looked at: here another file, and the question itself."""

    async def main() -> None:
        async with followed(tmp_path) as watched:
            (tmp_path / "api.yaml").write_text(service(8080))
            await watched.sees([8080])
            with (tmp_path / "api.yaml").open("w") as file:
                (tmp_path / "other.yaml").write_text(service(1, "other"))
                await eventually(lambda: len(watched.source.documents) == 2, "the other one")
                watched.source.load()
                file.write(service(8081))
            await watched.sees([8081])
            assert None not in watched.answers[1:]

    run(main())


@pytest.mark.parametrize("stays_open", [False, True], ids=["closed", "open"])
def test_a_file_that_stays_empty_is_empty(tmp_path: Path, stays_open: bool) -> None:
    async def main() -> None:
        async with followed(tmp_path) as watched:
            (tmp_path / "api.yaml").write_text(service(8080))
            await watched.sees([8080])
            with (tmp_path / "api.yaml").open("w") as file:
                if not stays_open:
                    file.close()
                watched.source.load()
                await watched.sees(None)

    run(main())


def test_files_of_other_kinds_are_passed_over(tmp_path: Path) -> None:
    for name in ("api.yaml~", ".api.yaml", "api.json", ".api.yaml.swp", "#api.yaml#"):
        (tmp_path / name).write_text("{")
    (tmp_path / "dangling.yaml").symlink_to("nowhere")
    (tmp_path / "api.yml").write_text(service(8080))
    source = FileSource(tmp_path, "mesh.local")
    source.load()
    assert (source.findings, len(source.documents)) == ((), 1)


def test_a_storm_of_writes_ends_with_the_last(tmp_path: Path) -> None:
    async def main() -> None:
        async with followed(tmp_path) as watched:
            for number in range(1, 400):
                write = (write_in_place, rename_over)[number % 2]
                write(tmp_path / "api.yaml", service(number))
                if number % 40 == 0:
                    await watched.sees([number])
            await watched.sees([399])

    run(main())


def test_changes_are_found_without_inotify_when_asked(tmp_path: Path) -> None:
    source = FileSource(tmp_path, "mesh.local")
    source.load()
    watched = Watched(source)
    (tmp_path / "api.yaml").write_text(service(8080))
    source.load()
    assert watched.ports == [8080]


def test_without_inotify_it_works_and_says_what_is_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    INotify().close()  # the library looks for libc the first time, which takes descriptors
    (tmp_path / "api.yaml").write_text(service(8080))
    source = FileSource(tmp_path, "mesh.local")
    source.load()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)

    async def main() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            source.start()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    run(main())
    assert source.health().healthy
    assert "changes are seen on SIGHUP only: inotify says Too many open files" in source.health().message
    assert "SIGHUP only" in caplog.text
    assert Watched(source).ports == [8080]

"""`meshd diagnostics`: what a real agent says of itself, as a person asks for it."""

import json
from pathlib import Path

from tests.support import aio, meshed
from tests.support.agents import local_agent

SERVICE = "apiVersion: meshd.io/v1\nkind: Service\nmetadata: {name: api}\nspec: {port: 80, endpoints: []}\n"


def test_where_each_document_came_from(tmp_path: Path) -> None:
    directory = tmp_path / "conf.d"
    directory.mkdir()
    (directory / "api.yaml").write_text(SERVICE)
    (directory / "b.yaml").write_text(SERVICE)
    argv = (*meshed.MESHD, "diagnostics", "config", "--socket", str(tmp_path / "meshd.sock"))

    async def main() -> None:
        async with local_agent(tmp_path):
            heading, row, _, _, refused = (await aio.output(*argv)).decode().splitlines()
            assert heading.split() == ["KIND", "NAMESPACE", "NAME", "SOURCE", "AGE", "STATE", "ORIGIN", "BY"]
            kind, namespace, name, source, _, *rest = row.split()
            assert (kind, namespace, name, source) == ("Service", "default", "api", "file")
            assert rest == ["in-force", f"{directory}/api.yaml:1", "-"]
            assert f"{directory}/b.yaml: Service default/api is also in {directory}/api.yaml" in refused
            said = json.loads(await aio.output(*argv, "-o", "json", "--whole"))
            assert said["documents"][0]["document"]["spec"]["port"] == 80

    aio.run(main())

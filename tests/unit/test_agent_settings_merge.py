"""Adding to a settings file: tables of what it was, what is wanted, and what becomes of it."""

from typing import Any

import pytest
import yaml

from meshd.agent.settings_merge import merged

WANTED: dict[str, Any] = {"trustDomain": "prod.example", "node": "vm1", "ca": {"url": "https://ca.example:4180"}}
LINES = 'trustDomain: prod.example\nnode: vm1\nca: {url: "https://ca.example:4180"}\n'
DOCUMENT = "apiVersion: meshd.io/v1\nkind: Workload\nmetadata: {name: web}  # mine\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", LINES),
        (LINES, LINES),
        (DOCUMENT, f"{LINES}---\n{DOCUMENT}"),
        (f"---\n{DOCUMENT}---\nzone: a # here\n", f"---\n{DOCUMENT}---\n{LINES}zone: a # here\n"),
        (
            "# the mesh\ntrustDomain: prod.example\n\n# elsewhere\nproxy: {workers: 1}\n",
            "# the mesh\nnode: vm1\nca: {url: \"https://ca.example:4180\"}\ntrustDomain: prod.example\n\n# elsewhere\n"
            "proxy: {workers: 1}\n",
        ),
        (
            'node: vm1\nca:\n  # as it came\n  bundle: /b.pem\n\n# next\ntrustDomain: "prod.example"\n',
            'node: vm1\nca: {bundle: /b.pem, url: "https://ca.example:4180"}\n\n# next\ntrustDomain: "prod.example"\n',
        ),
        (
            "node:\ntrustDomain: prod.example\nca:\n",
            'node: vm1\ntrustDomain: prod.example\nca: {url: "https://ca.example:4180"}\n',
        ),
    ],
)  # fmt: skip
def test_what_is_missing_is_added_and_the_rest_stays(before: str, after: str) -> None:
    result = merged(before, WANTED)
    assert (result.text, result.contradictions) == (after, ())
    assert merged(after, WANTED) == (after, ())


@pytest.mark.parametrize(
    ("before", "said", "after"),
    [
        ("trustDomain: b.example\n", "trustDomain: it is b.example, and would be prod.example", None),
        (
            LINES.replace("vm1", "vm2 # as on its label"),
            "node: it is vm2, and would be vm1",
            LINES.replace("vm1", "vm1 # as on its label"),
        ),
        (
            "trustDomain: prod.example\nnode: vm1\nca:\n  url: https://b:1\n  bundle: x\n# end\n",
            'ca.url: it is "https://b:1", and would be "https://ca.example:4180"',
            'trustDomain: prod.example\nnode: vm1\nca: {url: "https://ca.example:4180", bundle: x}\n# end\n',
        ),
    ],
)
def test_what_says_otherwise_is_said_and_overridden_in_the_text(before: str, said: str, after: str | None) -> None:
    result = merged(before, WANTED)
    assert [str(each) for each in result.contradictions] == [said]
    assert after in (result.text, None)
    documents = [each for each in yaml.safe_load_all(result.text) if "kind" not in each]
    assert [{**document, "ca": document["ca"]["url"]} for document in documents] == [
        {"trustDomain": "prod.example", "node": "vm1", "ca": "https://ca.example:4180"}
    ]


def test_settings_in_braces_are_left_to_who_wrote_them() -> None:
    with pytest.raises(ValueError, match="written in braces"):
        merged("{trustDomain: prod.example}", WANTED)


@pytest.mark.parametrize("name", ["true", "null", "1", "1e3", "on", "2026-03-01", "-", "a: b", "é", ""])
def test_a_name_that_yaml_would_take_for_something_else_is_quoted(name: str) -> None:
    assert yaml.safe_load(merged("", {"node": name}).text) == {"node": name}

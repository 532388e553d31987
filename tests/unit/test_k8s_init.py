"""The rules of a pod: golden files, which `MESHD_WRITE_GOLDEN=1` writes anew, and the command line that asks for
them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from k8s.init import iptables, main, nftables
from k8s.init.plan import PodPlan
from meshd.capture.plan import networks

GOLDEN = Path(__file__).parents[1] / "recordings" / "pods"

FULL = PodPlan(
    inbound_port=5143,
    outbound_port=5140,
    admin_port=5191,
    proxy_uid=2103,
    skip_inbound=((9100, 9100), (4191, 4200)),
    skip_outbound=((3306, 3306), (8000, 8010), (8005, 8011)),
    skip_subnets=networks(("10.0.0.0/8", "10.1.0.0/16", "fd12::/32"), ""),
)

TEXTS = {
    "usual.nft": nftables.render(PodPlan()),
    "full.nft": nftables.render(FULL),
    "plain.nft": nftables.render(FULL, looks_up=False),
    "full.v4": iptables.render(FULL, 4),
    "full.v6": iptables.render(FULL, 6),
    "again.v4": iptables.render(PodPlan(), 4, ("PREROUTING", "OUTPUT"), looks_up=False),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_plan_is_this_text(name: str) -> None:
    file = GOLDEN / name
    if os.environ.get("MESHD_WRITE_GOLDEN"):
        file.write_text(TEXTS[name])
    assert TEXTS[name] == file.read_text()


def test_flags_are_a_plan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    flags = (
        "--dry-run --inbound-port 5143 --outbound-port 5140 --admin-port 5191 --proxy-uid 2103 --skip-inbound-ports "
        "9100,4191-4200 --skip-outbound-ports 3306,8000-8010,8005-8011 --skip-subnets 10.0.0.0/8,10.1.0.0/16,fd12::/32"
    )
    monkeypatch.setattr(sys, "argv", ["meshd-init", *flags.split()])
    main.main()
    assert capsys.readouterr().out == TEXTS["full.nft"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--skip-inbound-ports", "80,http"], "found 'http'; expected ports and ranges of them"),
        (["--skip-outbound-ports", "70000"], "expected ports from 1 to 65535"),
        (["--skip-subnets", "10.0.0.0/40"], "'10.0.0.0/40' is not a network"),
        (["--proxy-uid", "0"], "expected the number of a user other than root"),
        (["--inbound-port", "65536"], "expected a port"),
        (["--dry-run", "--check"], "not allowed with"),
    ],
)
def test_flags_that_are_wrong_are_refused(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.parser().parse_args(flags)
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_it_imports_little() -> None:
    listed = "import sys, k8s.init.main; print(*sorted({each.split('.')[0] for each in sys.modules}))"
    done = subprocess.run([sys.executable, "-P", "-c", listed], capture_output=True, text=True, check=True)
    heavy = {"asyncio", "cryptography", "msgspec", "uvloop", "aiohttp", "kubernetes", "yaml", "ssl", "click", "proxy"}
    assert not heavy & set(done.stdout.split())

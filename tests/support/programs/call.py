"""`call URL COUNT-OR-FILE`: asks for URL through http_proxy, COUNT times or until FILE exists, on one connection after
the other; says `calling` at the first answer, and at the end how many there were of each: `200: 57`, `error: 1`.
"""

import os
import sys
from collections import Counter
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

REQUESTS_ON_ONE_CONNECTION = 10


def main() -> None:
    url, until = sys.argv[1:]
    proxy = urlsplit(os.environ["http_proxy"])
    assert proxy.hostname is not None
    seen: Counter[str] = Counter()
    while (seen.total() < int(until)) if until.isdigit() else (not Path(until).exists()):
        connection = HTTPConnection(proxy.hostname, proxy.port, timeout=60)
        for _ in range(REQUESTS_ON_ONE_CONNECTION):
            try:
                connection.request("GET", url)
                answer = connection.getresponse()
                text = answer.read().decode()
                seen[str(answer.status)] += 1
            except (OSError, HTTPException) as error:
                seen["error"] += 1
                print(f"error {error!r}", flush=True)
                break
            if answer.status != 200:
                print(f"{answer.status} {text}", flush=True)
            if seen.total() == 1:
                print(f"calling: {text}", flush=True)
        connection.close()
    for what, count in sorted(seen.items()):
        print(f"{what}: {count}", flush=True)


main()

"""Requests without end, four at a time, each on a connection of its own: `load.py STOP URL [PROXY]`, on a host of a
test. It ends when the file STOP is there, or after five minutes, and prints how many were answered with 200, and what
was wrong with the others; meanwhile STOP.PORT has the former. For any Python 3; nothing of meshd's is imported.
"""

import http.client
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

CALLERS = 4

stop, url, proxy = Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""
to, target = (urlsplit(proxy), url) if proxy else (urlsplit(url), urlsplit(url).path)
good = [0] * CALLERS
failed: list[str] = []


def call(number: int) -> None:
    """One caller's requests."""
    deadline = time.monotonic() + 300
    while not stop.exists() and time.monotonic() < deadline:
        began = time.time()
        connection = http.client.HTTPConnection(to.hostname or "", to.port, timeout=60)
        try:
            connection.request("GET", target, headers={"connection": "close"})
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                good[number] += 1
            else:
                failed.append(f"{began:.3f}: {answer.status} {answer.getheader('l5d-proxy-error', '')}")
        except (OSError, http.client.HTTPException) as error:
            failed.append(f"{began:.3f}: {type(error).__name__}: {error} {time.time() - began:.3f} s later")
        finally:
            connection.close()
        time.sleep(0.01)


with ThreadPoolExecutor(CALLERS) as pool:
    calling = [pool.submit(call, number) for number in range(CALLERS)]
    while not all(each.done() for each in calling):
        stop.with_name(f"{stop.name}.{to.port}").write_text(str(sum(good)))
        time.sleep(0.05)
for each in calling:
    each.result()
print(json.dumps({"good": sum(good), "failed": failed}))

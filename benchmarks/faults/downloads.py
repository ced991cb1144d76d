"""Downloads that break off: a Hub on the loopback closes the connection after a random number of bytes.

The download of a network goes on from there or is refused by an OSError; the next one gives the right network.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from diffaug_transforms import load_score_network
from diffaug_transforms.robustness.evaluation.digests import digest_of_network
from tests.hub_server import Hub, serve_hub

from ..harness.records import Record
from .augmenting import write_network
from .children import last_line, run_to_end
from .settings import Settings, Tally

NAME = "me/tiny"


def measure(settings: Settings) -> Iterator[Record]:
    repository, result, log = (settings.folder / name for name in ("repository", "result.json", "log"))
    write_network(repository)
    if code := run_to_end(lambda: download_often(settings, repository, result), log):
        raise RuntimeError(f"the downloads ended with code {code}: {last_line(log)}")
    tally = Tally("downloads", "network of the Hub; broken off")
    for fault in json.loads(result.read_text()):
        tally.add(fault)
    yield from tally.records()


def download_often(settings: Settings, repository: Path, result: Path) -> None:
    """In a process of its own, which may start threads. Writes what was wrong with each download."""
    choose = settings.random("downloads")
    faults: list[str] = []
    expected = digest_of_network(load_score_network(repository))
    with serve_hub({NAME: repository}) as hub:
        home = settings.folder / "home"
        use_hub(hub.url, home)
        while len(faults) < settings.choose(200, 5) and (not faults or time.monotonic() < settings.end):
            shutil.rmtree(home, ignore_errors=True)
            faults.append(break_off(hub, repository, choose, expected))
    result.write_text(json.dumps(faults))


def use_hub(url: str, home: Path) -> None:
    """What HF_ENDPOINT and HF_HOME do before huggingface_hub is imported. The waits between retries are left out."""
    from huggingface_hub import constants

    constants.ENDPOINT = url
    constants.HUGGINGFACE_CO_URL_TEMPLATE = url + "/{repo_id}/resolve/{revision}/{filename}"
    constants.HF_HUB_CACHE = str(home)
    constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET = False, True
    time.sleep = lambda seconds: None


def break_off(hub: Hub, repository: Path, choose: random.Random, expected: str) -> str:
    """One download that breaks off, and one that does not. Returns what was wrong, "" if nothing was."""
    path = choose.choice([path for path in sorted(repository.rglob("*")) if path.is_file()])
    hub.truncate, hub.truncate_at = path.name, choose.randrange(path.stat().st_size)
    try:
        if digest_of_network(load_score_network(NAME)) != expected:
            return f"{path.name}, cut at {hub.truncate_at}: another network was loaded in silence"
    except OSError:
        pass
    except Exception as error:
        return f"{path.name}, cut at {hub.truncate_at}: {type(error).__name__}: {error}"
    hub.truncate = None
    right = digest_of_network(load_score_network(NAME)) == expected
    return "" if right else f"{path.name}: the next download gives another network"

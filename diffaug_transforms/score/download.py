"""Files from the Hugging Face Hub, with errors that say what was tried and what to do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ADVICE = (
    "Check the name and the connection, or give a local path, or prepare the cache on a machine that reaches the Hub "
    "(`hf download REPO`) and pass local_files_only=True, or use the embedded network 'cifar10'."
)


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turn whatever the Hub's client raises into one OSError that names what was tried."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except HFValidationError as error:
        raise ValueError(f"{what}: {error}") from error
    except LocalEntryNotFoundError as error:
        raise OSError(f"{what} failed: it is not in the local cache and the Hub did not answer. {ADVICE}") from error
    except HfHubHTTPError as error:
        first_line = str(error).strip().splitlines()[0]
        raise OSError(f"{what} failed: {first_line} {ADVICE}") from error
    except Exception as error:
        raise OSError(f"{what} failed: {type(error).__name__}: {error} {ADVICE}") from error


def download_file(
    repo: str, filename: str, revision: str | None = None, token: str | None = None, local_files_only: bool = False
) -> Path:
    """One file of a Hub repository, from the cache where it is there. OSError where it cannot be had."""
    from huggingface_hub import hf_hub_download

    with hub_errors(f"downloading {filename} of {repo} (revision {revision or 'main'})"):
        return Path(hf_hub_download(repo, filename, revision=revision, token=token, local_files_only=local_files_only))


def download_folder(
    repo: str,
    patterns: list[str],
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder of a Hub repository's files that match the patterns, from the cache where they are there."""
    from huggingface_hub import snapshot_download

    with hub_errors(f"downloading {', '.join(patterns)} of {repo} (revision {revision or 'main'})"):
        return Path(
            snapshot_download(
                repo, revision=revision, token=token, local_files_only=local_files_only, allow_patterns=patterns
            )
        )


def upload_folder(folder: Path, repo: str, private: bool | None, token: str | None) -> str:
    """Upload a folder to a model repository, made where it is missing. Returns the commit's address."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with hub_errors(f"uploading to {repo}"):
        repo = api.create_repo(repo, private=private, exist_ok=True).repo_id
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload score network"))


def check_sha256(path: Path, expected: str | None) -> None:
    """OSError unless the file's SHA-256 is the expected one; nothing is checked where none is known."""
    if expected is None:
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise OSError(
            f"{path} is damaged or another file: its SHA-256 is {digest.hexdigest()}, expected {expected}. "
            "Delete it and load again, or give the path of a good copy."
        )

"""Repositories of the Hugging Face Hub: downloads and uploads, whose failures are one kind of error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: What mends most failed downloads.
ADVICE = (
    "Check the name and the connection, or give a local path, or prepare the cache on a machine that reaches the Hub "
    "(`hf download REPO`) and set HF_HUB_OFFLINE=1"
)
UPLOAD_ADVICE = "Check the name, the connection, and that you are logged in (`hf auth login`) or pass a token."


@contextmanager
def hub_errors(what: str, advice: str) -> Iterator[None]:
    """Turn whatever the Hub's client raises into one OSError that names what was tried."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except HFValidationError as error:
        raise ValueError(f"{what}: {error}") from error
    except LocalEntryNotFoundError as error:
        raise OSError(f"{what} failed: it is not in the local cache and the Hub did not answer. {advice}") from error
    except HfHubHTTPError as error:
        first_line = str(error).strip().splitlines()[0]
        raise OSError(f"{what} failed: {first_line} {advice}") from error
    except Exception as error:
        raise OSError(f"{what} failed: {type(error).__name__}: {error} {advice}") from error


def download_file(
    repo: str,
    filename: str,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    *,
    advice: str,
) -> Path:
    """One file of a repository, from the cache if it is there. OSError with the advice if it cannot be had."""
    from huggingface_hub import hf_hub_download

    with hub_errors(f"downloading {filename} of {repo} (revision {revision or 'main'})", advice):
        return Path(hf_hub_download(repo, filename, revision=revision, token=token, local_files_only=local_files_only))


def download_folder(
    repo: str,
    patterns: list[str],
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    *,
    advice: str,
) -> Path:
    """The folder of a repository's files that match the patterns, from the cache if they are there."""
    from huggingface_hub import snapshot_download

    with hub_errors(f"downloading {', '.join(patterns)} of {repo} (revision {revision or 'main'})", advice):
        return Path(
            snapshot_download(
                repo, revision=revision, token=token, local_files_only=local_files_only, allow_patterns=patterns
            )
        )


def upload_folder(folder: Path, repo: str, private: bool | None, token: str | None, message: str) -> str:
    """Upload a folder to a model repository, made if it is missing. Returns the commit's address."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with hub_errors(f"uploading to {repo}", UPLOAD_ADVICE):
        repo = api.create_repo(repo, private=private, exist_ok=True).repo_id
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message))

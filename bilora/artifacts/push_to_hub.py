"""From a folder with an adapter to a repository on the hub; only ever where a user asked for it."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi

from bilora.errors import DataError


def push_to_hub(folder: Path, *, repository: str) -> str:
    """Upload an adapter's folder, card included, and return its address.

    A repository that is not there yet is made, and private; one that is there keeps its visibility.

    Args:
        folder: The folder.
        repository: ``name/model`` on the hub.

    Raises:
        DataError: The hub refuses, or cannot be reached; the folder is as it was.
    """
    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="Upload adapter")
    except Exception as error:  # the hub's clients raise classes of several libraries, which share no root
        raise DataError(
            f"{folder} was not uploaded to {repository!r} ({type(error).__name__}: {' '.join(str(error).split())}); it "
            "is whole on this machine: log in with 'hf auth login', or give another --hub-model-id"
        ) from error
    return f"{api.endpoint}/{repository}"

"""Models and settings into a repository of the hub: `push_to_hub`."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

from napari_swin2sr.errors import WeightsError
from napari_swin2sr.weights.download import is_offline

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from huggingface_hub import CommitInfo


class Uploadable:
    """What `save_pretrained` writes can be uploaded."""

    def save_pretrained(self, folder: str | PathLike[str]) -> Path:
        """Write the files that are uploaded."""
        raise NotImplementedError

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> CommitInfo:
        """Upload what `save_pretrained` writes, in one commit.

        Parameters
        ----------
        repo_id : str
            `owner/name`, or a name of your own; made if it does not exist.
        commit_message, commit_description : str, optional
            What the commit says.
        private : bool, optional
            Whether a new repository is private.
        token : str or bool, optional
            Access token; by default that of `hf auth login`.
        revision : str, optional
            Branch, by default `main`.
        create_pr : bool, optional
            Propose the commit as a pull request.

        Returns
        -------
        huggingface_hub.CommitInfo
            The address of the commit.

        Raises
        ------
        WeightsError
            If the hub cannot be reached, or refuses.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        advice = "Check the name, your token (`hf auth login`) and the network."
        if is_offline():
            reason = "nothing can be uploaded while HF_HUB_OFFLINE is set"
            raise WeightsError(repo_id, reason, "Unset it.")
        options: dict[str, Any] = {"revision": revision, "create_pr": create_pr}
        api = HfApi(token=token)
        try:
            with tempfile.TemporaryDirectory() as folder:
                self.save_pretrained(folder)
                repo = api.create_repo(repo_id, private=private, exist_ok=True)
                info: CommitInfo = api.upload_folder(
                    repo_id=repo.repo_id,
                    folder_path=folder,
                    commit_message=commit_message or f"Upload {type(self).__name__}",
                    commit_description=commit_description,
                    **options,
                )
                return info
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise WeightsError(
                repo_id, f"cannot be uploaded ({error})", advice
            ) from error

"""Download files of models from the Hugging Face hub, with one-line errors."""

from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from siam.errors import RunError, SettingsError, first_line


def download(repo: str, file: str) -> Path:
    """Return the path of a model's file in the local cache, after downloading it if it is missing or old.

    repo: OWNER/NAME or OWNER/NAME@REVISION. Without a network, the cached file is returned. Raises
    SettingsError if `repo` is not a name, and RunError if the file cannot be had.
    """
    model, _, revision = repo.partition("@")
    if model.count("/") != 1:
        raise SettingsError(f"'{repo}' is not a model of the hub: its name has the form OWNER/NAME")
    hub = constants.ENDPOINT
    try:
        return Path(hf_hub_download(model, file, revision=revision or None))
    except HFValidationError:
        raise SettingsError(f"'{repo}' is not a model of the hub: its name has the form OWNER/NAME") from None
    except GatedRepoError:
        reason = "is restricted: accept its terms there, and log in with `hf auth login`"
        raise RunError(f"{model} on {hub} {reason}") from None
    except RepositoryNotFoundError:
        reason = "or it is private: check the name, or log in with `hf auth login`"
        raise RunError(f"there is no model {model} on {hub}, {reason}") from None
    except RevisionNotFoundError:
        raise RunError(f"{model} on {hub} has no revision '{revision}'") from None
    except LocalEntryNotFoundError:
        offline = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else f"{hub} cannot be reached"
        reason = "run this once with a network, or give a local folder of the model instead"
        raise RunError(f"{model} is not in the local cache, and {offline}: {reason}") from None
    except EntryNotFoundError:
        raise RunError(f"{model} on {hub} has no {file}: only safetensors with a config are read") from None
    except Exception as error:  # those of the disk, and of the hub's HTTP library
        raise RunError(f"{model} cannot be downloaded from {hub}: {first_line(error, 200)}") from None

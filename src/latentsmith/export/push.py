"""An export to a model hub: looked through first, then sent in one commit.

By ``huggingface_hub``, to the hub it is set to (``HF_ENDPOINT``). Tests send to a stand-in on this
machine that answers the same requests; the hub itself is not asked by any of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from latentsmith.errors import UserError

CARD = "README.md"
DIGESTS = "## What belongs together"
KNOWN = {".md", ".json", ".py", ".safetensors", ".onnx", ".data", ".txt", ".model", ".jinja"}
"""Endings of what exports hold."""
PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib", ".npy", ".npz"}
TRAINING = ("optimizer", "optim", "exp_avg", "checkpoint", "training_state")
"""In a name of a file, or of what a weights file holds: state of a training, not of a model."""
INSTEAD = "push what latentsmith export wrote"


@dataclass(frozen=True)
class Upload:
    """What goes up.

    Attributes:
        folder: the export.
        files: path in it → bytes.
        licensed: whether its card states a licence.
    """

    folder: Path
    files: dict[str, int]
    licensed: bool

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


def look_through(folder: Path) -> Upload:
    """What a push would send.

    Raises:
        UserError: no export, or something in it that does not belong on a hub, named.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: {INSTEAD}")
    found = sorted(p for p in folder.rglob("*") if not p.is_dir() or p.is_symlink())
    files = {}
    for path in found:
        name = path.relative_to(folder).as_posix()
        _check_file(path, name)
        files[name] = path.stat().st_size
    card = _check_card(folder)
    weights = [name for name in files if name.endswith(".safetensors")]
    if not weights:
        raise UserError(f"{folder} holds no weights (.safetensors): {INSTEAD}")
    for name in weights:
        _check_weights(folder / name, name)
    return Upload(folder, files, "license" in card)


def _check_file(path: Path, name: str) -> None:
    if path.is_symlink():
        raise UserError(f"{name} is a link, and only files are pushed: {INSTEAD}")
    if path.suffix in PICKLES:
        raise UserError(
            f"{name} may hold a pickle, which runs code where it is read, and is not pushed: take "
            "it out of the folder (weights are .safetensors)"
        )
    if any(word in part.lower() for part in Path(name).parts for word in TRAINING):
        raise UserError(
            f"{name} is the state of a training, not of a model, and is not pushed: {INSTEAD}, not "
            "a run"
        )
    if path.suffix not in KNOWN or any(part.startswith(".") for part in Path(name).parts):
        raise UserError(f"{name} is nothing that an export holds: take it out, then push again")


def _check_card(folder: Path) -> dict[str, Any]:
    """Its front matter."""
    path = folder / CARD
    if not path.is_file():
        raise UserError(f"{folder} has no model card ({CARD}): {INSTEAD}")
    text = path.read_text("utf-8")
    parts = text.split("---\n", 2)
    try:
        front = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = "" if where is None else f" (line {where.line + 2})"
        raise UserError(f"{path} has front matter that is no YAML{line}: mend it") from error
    if not isinstance(front, dict):
        raise UserError(f"{path} has no front matter between two lines of ---: {INSTEAD}")
    if DIGESTS not in text:
        raise UserError(
            f"{path} lists no digests ({DIGESTS.removeprefix('## ')!r}), by which its readers know "
            f"what they have: {INSTEAD}"
        )
    return front


def _check_weights(path: Path, name: str) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            keys = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{name} is damaged ({error}): export it anew") from error
    state = next((k for k in keys if any(word in k.lower() for word in TRAINING)), None)
    if state is not None:
        raise UserError(
            f"{name} holds the state of an optimizer ({state}), and is not pushed: {INSTEAD}"
        )


def push(
    upload: Upload, repository: str, *, private: bool = False, revision: str | None = None
) -> str:
    """Send it, in one commit; the repository, and a branch called ``revision``, are made where they
    are not. The address of the commit.

    Args:
        repository: OWNER/NAME.
        private: whether a new repository is seen by its owner alone.

    Raises:
        UserError: a name that is none, no token, no network, or the hub's refusal, each with what
            would help.
    """
    from huggingface_hub import HfApi, get_token

    api = HfApi(library_name="latentsmith")
    with _told(api.endpoint, repository):
        _check_name(repository)
        if get_token() is None:
            raise UserError(
                "there is no token to push with: 'hf auth login' asks for one and keeps it, or set "
                "HF_TOKEN. It must be allowed to write"
            )
        api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository,
            folder_path=upload.folder,
            revision=revision,
            commit_message=f"{upload.folder.name}, exported by latentsmith",
        )
    return str(done.commit_url)


def _check_name(repository: str) -> None:
    from huggingface_hub.utils import validate_repo_id

    if repository.count("/") != 1:
        raise UserError(f"{repository!r} is no repository: give OWNER/NAME")
    validate_repo_id(repository)


@contextmanager
def _told(endpoint: str, repository: str) -> Iterator[None]:
    """What the hub, or the lack of it, answers, as a sentence."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        yield
    except HFValidationError as error:
        first = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{repository!r} is no repository ({first}): give OWNER/NAME") from error
    except OfflineModeIsEnabled as error:
        raise UserError(
            "HF_HUB_OFFLINE is set, so nothing is sent: unset it, or see with --dry-run what would "
            "go up"
        ) from error
    except HfHubHTTPError as error:
        raise UserError(_refusal(error, endpoint, repository)) from error
    except Exception as error:
        if not _is_of_the_network(error):
            raise
        raise UserError(
            f"{endpoint} cannot be reached ({type(error).__name__}: {error}): is the network up, "
            "and HF_ENDPOINT right? The same command tries again"
        ) from error


def _is_of_the_network(error: Exception) -> bool:
    """The client's library raises its own errors, and has been renamed before."""
    module = type(error).__module__
    return isinstance(error, ConnectionError | TimeoutError) or module.startswith("httpx")


def _refusal(error: Any, endpoint: str, repository: str) -> str:
    status = error.response.status_code if error.response is not None else 0
    said = (getattr(error, "server_message", None) or "").strip().rstrip(".")
    said = f" ({said})" if said else ""
    owner = repository.partition("/")[0]
    if status == 401:
        return (
            f"the hub does not take this token{said}: make one that may write, then "
            "'hf auth login', or set HF_TOKEN"
        )
    if status == 403:
        return (
            f"this token may not write to {repository}{said}: it must be allowed to write, and you "
            f"a member of {owner}"
        )
    if status == 404:
        return (
            f"{endpoint} knows no {repository} that this token may see{said}: check OWNER and NAME "
            f"('hf auth whoami' says who you are)"
        )
    if status >= 500:
        return (
            f"{endpoint} is in trouble (status {status}){said}: wait a little; the same command "
            "tries again, and sends nothing twice"
        )
    return f"{endpoint} refused {repository} with status {status}{said}"

"""Push a model to the Hugging Face hub: its diffusers folder, its model directory, and a card."""

import json
import tempfile
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from latentdebias.errors import UserError
from latentdebias.files import publish
from latentdebias.interop.diffusers import dit_transformer
from latentdebias.interop.diffusers.pipeline import export_diffusers
from latentdebias.interop.diffusers.transformer import MODEL_INDEX
from latentdebias.interop.model_card import EVALUATION_KEYS, MANIFEST_KEYS, model_card, read_facts
from latentdebias.models.model_directory import CONFIG, WEIGHTS, load_model

MODEL_FOLDER = "latentdebias"


def push_to_hub(model_dir: Path, repo: str, vae: str | None, manifest: Path | None, evaluation: Path | None) -> str:
    """Upload a model to the hub repository `repo` (OWNER/NAME) in one commit, and return the repository's address.

    A new repository is created. The diffusers folder lies at its top, the model directory under `latentdebias/`. For
    the card, `manifest` is the training data's manifest.json, and `evaluation` a file with scores, by default the one
    that the command `evaluate` writes beside the model. Raises `UserError` where the model cannot be exported, or the
    hub refuses.
    """
    model, facts = load_model(model_dir), read_facts(manifest, MANIFEST_KEYS)
    beside = model_dir.absolute().with_name(f"{model_dir.absolute().name}.evaluation.json")
    scores = read_facts(evaluation or (beside if beside.is_file() else None), EVALUATION_KEYS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "upload")
        exported = export_diffusers(model, folder, vae)
        if exported.own_transformer:
            ship_transformer_code(folder)
        publish(folder / "README.md", model_card(repo, model.config, exported, facts, scores).encode())
        (folder / MODEL_FOLDER).mkdir()
        for name in (CONFIG, WEIGHTS):
            (folder / MODEL_FOLDER / name).symlink_to((model_dir / name).absolute())
        return _upload(folder, repo)


def ship_transformer_code(folder: Path) -> None:
    """Copy the file of `PublishedDiTTransformer2DModel` beside its weights in an exported folder.

    diffusers then loads the folder without this package, with `trust_remote_code=True`.
    """
    source = Path(dit_transformer.__file__)
    publish(folder / "transformer" / source.name, source.read_bytes())
    index = json.loads((folder / MODEL_INDEX).read_text())
    index["transformer"][0] = source.stem
    publish(folder / MODEL_INDEX, (json.dumps(index, indent=2) + "\n").encode())


def _upload(folder: Path, repo: str) -> str:
    api = HfApi()
    try:
        address = api.create_repo(repo, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload the model")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"The hub did not take {repo!r} ({reason}). Check the name (OWNER/NAME) and the network, and log in with: "
            f"hf auth login"
        ) from None
    return str(address)

"""Load a model through the pointer that its run holds: the weights come out of DVC's cache.

MLflow loads this module by name, so `models:/NAME@alias` works wherever drtune is installed and the project's
DVC cache is at hand. Elsewhere a materialized model is needed.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drtune.base.errors import ConfigError, UntrustedError, WeightsError
from drtune.base.files import read_json
from drtune.runs.outs import listed_files, md5_of
from drtune.runs.stage_key import cache_folder, cached_object, dvc_folder
from drtune.serving.pyfunc import ImageClassifier


@contextmanager
def model_from_cache(md5: str, roots: Sequence[Path]) -> Iterator[Path]:
    """A folder, gone afterwards, whose files link to the objects of a DVC folder.

    Args:
        md5: of the folder, with `.dir`.
        roots: DVC repositories whose caches are tried in turn.

    Raises:
        UntrustedError: a listing that reaches out of its folder.
        WeightsError: no cache holds all of it as it was.
    """
    caches = [cache for cache in map(cache_of, roots) if cache is not None]
    for cache in caches:
        listing = cached_object(cache, md5)
        if not listing.is_file() or md5_of(listing) != md5.removesuffix(".dir"):
            continue
        with tempfile.TemporaryDirectory(prefix="drtune-model-") as folder:
            parts = listed_files(listing, Path(folder))
            files = {target: cached_object(cache, md5) for target, md5 in parts.items()}
            if not all(file.is_file() and md5_of(file) == parts[target] for target, file in files.items()):
                continue
            try:
                for target, file in files.items():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.symlink_to(file)
            except OSError as fault:
                raise UntrustedError(f"{listing}: names what cannot be: {fault}") from None
            yield Path(folder)
        return
    searched = ", ".join(map(str, caches)) or "no DVC cache"
    raise WeightsError(
        f"model {md5}: not in {searched}; fetch it with `drtune restore` of its run or `dvc pull` at its "
        "commit, run this in the project's folder, or load a materialized model (`drtune model materialize`)"
    )


def cache_of(root: Path) -> Path | None:
    """Cache of a DVC repository; None where there is none."""
    try:
        return cache_folder(root)
    except ConfigError:
        return None


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> ImageClassifier:
    """MLflow's entry: the pointer's file, and `device` and `batch_size` if wanted."""
    pointer = read_json(Path(path))
    if not isinstance(pointer, dict) or not isinstance(pointer.get("root"), str) or "md5" not in pointer:
        raise UntrustedError(f"{path}: is no pointer to a model; a run of this project holds one")
    here = dvc_folder(Path.cwd())
    roots = [*([here] if here else []), Path(pointer["root"])]
    with model_from_cache(pointer["md5"], roots) as folder:
        return ImageClassifier(folder, **dict(model_config or {}))

"""What training codes keep beside the tensors of a checkpoint, as things that cannot act.

PyTorch's reader makes nothing but tensors and what it is told is harmless. The names below are classes of
settings; what is made in their place takes anything and keeps nothing. No module of theirs is imported.
"""

import argparse
from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class Inert:
    """Stands in for an object of a checkpoint's settings; it takes anything and keeps nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def empty(*_: Any, **__: Any) -> Any:
    """Stands in for a mapping of a checkpoint's settings that is called into being."""
    return OrderedDict()


class Mapped:
    """Stands in for a mapping of a checkpoint's settings; it becomes a plain one."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        """A plain mapping."""
        return OrderedDict()


OBJECTS = [
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.WindowsPath",
    "pathlib.PureWindowsPath",
    "pathlib.Path",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "datetime.datetime",
    "datetime.date",
    "datetime.timedelta",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.float64",
    "numpy.float32",
    "numpy.int64",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.StringNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.BooleanNode",
    "typing.Any",
    "builtins.dict",
    "builtins.list",
    "builtins.int",
    "builtins.float",
    "builtins.str",
    "builtins.bool",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
]


MAPPINGS = [
    "yacs.config.CfgNode",
    "easydict.EasyDict",
    "addict.addict.Dict",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
    "ml_collections.config_dict.config_dict.ConfigDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
]


SAFE: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    SimpleNamespace,
    *((Inert, name) for name in OBJECTS),
    *((Mapped, name) for name in MAPPINGS),
    (empty, "collections.defaultdict"),
]
"""What training codes keep beside the tensors. None of it can act; no module of theirs is imported."""

"""A map of features before and after training. Letters: N images, D features."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits
from torch import Tensor

from drtune.evaluation.pictures.style import class_look, new_figure, shorten, styled, without_ticks

MAPPED = 600  # images in the map at most: t-SNE of more takes long and hides points behind points
NEIGHBOURS = 5
NAMED_CLASSES = 20  # up to here, the legend names the classes


@styled
def feature_map(
    pretrained: Tensor, downstream: Tensor, labels: Tensor, classes: Sequence[str], *, split: str
) -> Figure:
    """Two maps side by side: the features of the same images before and after training.

    The titles give the leave-one-out accuracy of 5 nearest neighbours (cosine) among the images in the map,
    measured on the features themselves, since distances in a map are only a hint.

    Args:
        pretrained, downstream: [N, D] float32 features of the same N images.
        labels: [N] int64.
        classes: names.
        split: name of the split, for the title.
    """
    n = len(labels)
    rows = torch.arange(n)
    if n > MAPPED:
        rows = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:MAPPED].sort().values
    labels = labels[rows]
    figure = new_figure(12, 5.8)
    panels = (("Pretrained features", pretrained[rows]), ("Features after training", downstream[rows]))
    for axes, (title, features) in zip(figure.subplots(1, 2), panels, strict=True):
        places = place(features.double().numpy())
        scatter(axes, places, labels)
        axes.set_title(title + neighbour_note(features, labels))
    shown = sorted(set(labels.tolist()))
    if len(shown) <= NAMED_CLASSES:
        name_classes(figure, shown, classes)
    part = f"n = {len(rows)} of {n} images" if len(rows) < n else f"n = {n}"
    note = "" if len(shown) <= NAMED_CLASSES else f"; {len(shown)} classes, colours repeat"
    figure.suptitle(f"Feature map, {split} split, {part}{note}")
    return figure


def scatter(axes: Axes, places: np.ndarray, labels: Tensor) -> None:
    """Draw points [N, 2], one colour and marker a class."""
    size = float(np.clip(6000 / len(labels), 12, 60))
    for label in sorted(set(labels.tolist())):
        chosen = places[(labels == label).numpy()]
        colour, marker = class_look(label)
        axes.scatter(
            chosen[:, 0], chosen[:, 1], s=size, alpha=0.75, linewidths=0, color=colour, marker=marker
        )
    kind = "t-SNE" if len(labels) >= 5 else "principal"
    axes.set(xlabel=f"{kind} axis 1", ylabel=f"{kind} axis 2")
    without_ticks(axes)


def name_classes(figure: Figure, shown: Sequence[int], classes: Sequence[str]) -> None:
    """Put a legend beside the maps."""
    looks = [class_look(label) for label in shown]
    handles = [Line2D([], [], ls="", ms=7, color=colour, marker=marker) for colour, marker in looks]
    legend = figure.legend(handles, [str(label) for label in shown], loc="outside right center")
    for text, label in zip(legend.get_texts(), shown, strict=True):
        text.set_text(shorten(classes[label]))  # afterwards: a legend skips names that begin with "_"


def neighbour_note(features: Tensor, labels: Tensor) -> str:
    """Say how many images share the class of most of their nearest neighbours; '' for one image."""
    others = len(labels) - 1
    if others == 0:
        return ""
    k = min(NEIGHBOURS, others)
    unit = F.normalize(features.double(), dim=1)
    likeness = (unit @ unit.T).fill_diagonal_(-torch.inf)
    nearest = labels[likeness.topk(k, dim=1).indices]
    voted = F.one_hot(nearest).sum(1).argmax(1)
    share = (voted == labels).double().mean().item()
    return f"\n{k}-nearest-neighbour accuracy {share:.1%}"


def place(features: np.ndarray) -> np.ndarray:
    """Lay features [N, D] out in the plane: t-SNE from principal components, which alone serve for N < 5.

    Runs on one thread, because the order of a parallel sum would change the picture.

    Source: van der Maaten and Hinton 2008; starting from principal components: Kobak and Berens 2019.
    """
    with threadpool_limits(1):
        components = principal_components(features, 50)
        start = components[:, :2]
        spread = start[:, 0].std()
        if len(features) < 5 or spread == 0:
            return start
        tsne = TSNE(
            perplexity=min(30.0, (len(features) - 1) / 3),
            init=(start / spread * 1e-4).astype(np.float32),
            learning_rate="auto",
            max_iter=400,  # with the coarse angle: half the time, and no difference to the eye
            angle=0.8,
            random_state=0,
        )
        placed: np.ndarray = tsne.fit_transform((components / spread).astype(np.float32))
    return placed


def principal_components(features: np.ndarray, count: int) -> np.ndarray:
    """Coordinates [N, max(2, min(N, count))] along the directions of greatest variance, largest first.

    A direction's sign is free: here its coordinate of greatest size is positive. Directions without
    variance give zeros.
    """
    centred = features - features.mean(0)
    values, vectors = np.linalg.eigh(centred @ centred.T)
    count = min(count, len(features))
    scores = vectors[:, ::-1][:, :count] * np.sqrt(values[::-1][:count].clip(0))
    scores *= np.where(scores[np.abs(scores).argmax(0), np.arange(count)] < 0, -1.0, 1.0)
    return np.pad(scores, ((0, 0), (0, max(0, 2 - count))))
